//! The TGI- and OpenAI-compatible HTTP server.

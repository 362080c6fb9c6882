"""Models: behind TGI's routes or OpenAI's, a checkpoint that we serve ourselves, scripts. Refuses to know tasks."""

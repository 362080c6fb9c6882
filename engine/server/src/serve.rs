//! Bind the ports, start what serves them, and close in order. It knows no connection.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agentlm_host::EngineHandle;
use agentlm_text::{Renderer, Tokenizer};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::{self, App};
use crate::config::{ConfigError, ServerConfig, TlsFiles};
use crate::connection::{Door, accept};
use crate::request_log::Log;
use crate::tls::{self, TlsError};
use crate::traces::{self, Exporter};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Bytes that the system keeps for a client that does not read; it takes twice as much. More would only hide that the client has
/// stopped, and thousands of them would fill the memory that the system has for sockets.
const SEND_BUFFER: u32 = 128 * 1024;
/// How long the last spans have to be sent.
const SPANS_PATIENCE: Duration = Duration::from_secs(1);
/// How long the last log lines have to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Why the server could not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host name has no address.
    #[error("cannot resolve `{hostname}`: {source}; give an address or a name of this machine")]
    Resolve {
        /// The name as configured.
        hostname: String,
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another port or stop the process that holds it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The threads could not be started.
    #[error("cannot start the HTTP threads: {0}")]
    Runtime(io::Error),
}

/// A server that answers. Dropping it closes every connection at once.
pub struct RunningServer {
    local_addr: SocketAddr,
    /// The grace, once shutdown has begun.
    closing: watch::Sender<Option<Duration>>,
    acceptors: Mutex<Vec<JoinHandle<()>>>,
    runtime: Mutex<Option<Runtime>>,
    /// The port for metrics alone, if it was asked for, or why it could not be had.
    metrics: Option<Result<SocketAddr, ServeError>>,
    log: Arc<Log>,
    spans: Option<Arc<Exporter>>,
}

/// Starts to serve `engine`. The port is open when this returns, so call it when the model is ready. Without a renderer
/// the chat routes answer that there is no template.
///
/// # Errors
/// [`ServeError`], in one line, when a setting is out of range or the address cannot be had.
pub fn serve(
    config: ServerConfig,
    engine: EngineHandle,
    tokenizer: Arc<Tokenizer>,
    renderer: Option<Arc<Renderer>>,
) -> Result<RunningServer, ServeError> {
    config.validate()?;
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let log = Arc::new(Log::start(config.log).map_err(ServeError::Runtime)?);
    let spans = exporter(&config)?;
    try_threads(config.http_workers).map_err(ServeError::Runtime)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.http_workers)
        // As many again for what prompts must not wait for: see `prompt::aside`.
        .max_blocking_threads(2 * config.validation_workers)
        .thread_name("agentlm-http")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let (listener, local_addr) = listen(&runtime, &config.hostname, config.port)?;
    let second = config
        .prometheus_port
        .map(|port| listen(&runtime, &config.hostname, port));
    let (read_timeout, write_timeout) = (config.read_timeout, config.write_timeout);
    let app = Arc::new(App::new(
        config,
        engine,
        tokenizer,
        renderer,
        log.clone(),
        spans.clone(),
    ));
    let (closing, watcher) = watch::channel(None);
    let door = Door {
        router: app::router(app.clone()),
        tls,
        metrics: app.metrics.clone(),
        read_timeout,
        write_timeout,
    };
    let mut acceptors = Vec::new();
    let metrics = second.map(|second| {
        second.map(|(listener, address)| {
            let door = Door {
                router: app::metrics_router(app),
                tls: None,
                ..door.clone()
            };
            acceptors.push(runtime.spawn(accept(listener, door, watcher.clone())));
            address
        })
    });
    acceptors.push(runtime.spawn(accept(listener, door, watcher)));
    Ok(RunningServer {
        local_addr,
        closing,
        acceptors: Mutex::new(acceptors),
        runtime: Mutex::new(Some(runtime)),
        metrics,
        log,
        spans,
    })
}

/// Whether the system gives so many threads now. The runtime would panic where it does not.
fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    let closed = gate.lock();
    thread::scope(|scope| {
        let tried = (0..count).try_for_each(|_| {
            let waits = || drop(gate.lock());
            thread::Builder::new().spawn_scoped(scope, waits).map(drop)
        });
        drop(closed);
        tried
    })
}

/// What sends traces, if they are asked for.
fn exporter(config: &ServerConfig) -> Result<Option<Arc<Exporter>>, ServeError> {
    let Some(given) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let endpoint = traces::endpoint(given)?;
    Exporter::start(endpoint, &config.otlp_service_name, &config.version)
        .map(|exporter| Some(Arc::new(exporter)))
        .map_err(ServeError::Runtime)
}

impl RunningServer {
    /// The address that is listened on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address that answers `/metrics` alone, if there is one, or why it cannot be had: the server serves without it.
    ///
    /// # Errors
    /// [`ServeError`], in one line.
    pub fn metrics_addr(&self) -> Result<Option<SocketAddr>, &ServeError> {
        self.metrics
            .as_ref()
            .map(|metrics| metrics.as_ref().copied())
            .transpose()
    }

    /// Stops accepting. Requests in flight have `grace` to finish; then their connections are closed, which aborts
    /// them. The first call sets the grace.
    pub fn begin_shutdown(&self, grace: Duration) {
        self.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            closing.get_or_insert(grace);
            first
        });
    }

    /// Blocks until the server is closed: [`RunningServer::begin_shutdown`] was called, and the requests have
    /// ended or the grace is over. Further calls return at once.
    pub fn wait(&self) {
        let acceptors = std::mem::take(&mut *self.acceptors.lock());
        let Some(runtime) = self.runtime.lock().take() else {
            return;
        };
        for acceptor in acceptors {
            // It cannot be cancelled while the runtime lives; if it panicked the server is closed all the same.
            let _ = runtime.block_on(acceptor);
        }
        runtime.shutdown_background();
        self.log.flush(LOG_PATIENCE);
        if let Some(spans) = &self.spans {
            spans.flush(SPANS_PATIENCE);
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether the address can be had now, without taking it: said before a model is loaded, which can take minutes.
///
/// # Errors
/// [`ServeError`], as [`serve`] would say it.
pub fn check_address(hostname: &str, port: u16) -> Result<(), ServeError> {
    bind(hostname, port).map(drop)
}

/// Whether the certificate and its key can be served.
///
/// # Errors
/// [`ServeError`], as [`serve`] would say it.
pub fn check_tls(files: &TlsFiles) -> Result<(), ServeError> {
    tls::acceptor(files).map(drop).map_err(ServeError::Tls)
}

/// Whether a collector of traces can have this address.
///
/// # Errors
/// [`ConfigError`], as [`serve`] would say it.
pub fn check_otlp_endpoint(endpoint: &str) -> Result<(), ConfigError> {
    traces::endpoint(endpoint).map(drop)
}

/// A listener on the runtime, and its address with the real port.
fn listen(runtime: &Runtime, hostname: &str, port: u16) -> Result<(TcpListener, SocketAddr), ServeError> {
    let socket = bind(hostname, port)?;
    let address = socket.local_addr().map_err(ServeError::Runtime)?;
    let _inside = runtime.enter();
    // Two sockets may be bound to one port; only one of them can listen.
    let listener = socket
        .listen(BACKLOG)
        .map_err(|source| ServeError::Bind { address, source })?;
    Ok((listener, address))
}

/// The first address of the name that can be had; nobody can connect before it listens.
fn bind(hostname: &str, port: u16) -> Result<TcpSocket, ServeError> {
    let unresolved = |source| ServeError::Resolve {
        hostname: hostname.to_owned(),
        source,
    };
    let mut last = unresolved(io::Error::from(io::ErrorKind::NotFound));
    for address in (hostname, port).to_socket_addrs().map_err(unresolved)? {
        match bind_address(address) {
            Ok(socket) => return Ok(socket),
            Err(source) => last = ServeError::Bind { address, source },
        }
    }
    Err(last)
}

fn bind_address(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Without it a restart waits for the old connections' last minutes.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    // Connections inherit it. Where it cannot be set, more is kept.
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    socket.bind(address)?;
    Ok(socket)
}

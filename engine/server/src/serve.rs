//! Bind, accept, and close in order. It knows connections, not what is said on them.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentlm_host::EngineHandle;
use agentlm_text::{Renderer, Tokenizer};
use axum::Router;
use axum::http::{Method, Request, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::app::{self, App};
use crate::config::{ConfigError, ServerConfig};
use crate::stream::{Entry, Line, Socket};

type Connection = http1::Connection<TokioIo<Socket>, Answers>;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// A client has this long to send a request's head, on a kept connection from the last answer on: longer than the 60 seconds
/// after which proxies give up an idle connection, so that it is never closed under a request of theirs.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Pause after an accept that failed for want of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// The threads could not be started.
    #[error("cannot start the HTTP threads: {0}")]
    Runtime(io::Error),
}

/// A server that answers. Dropping it closes every connection at once.
pub struct RunningServer {
    local_addr: SocketAddr,
    /// The grace, once shutdown has begun.
    closing: watch::Sender<Option<Duration>>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
    runtime: Mutex<Option<Runtime>>,
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
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.http_workers)
        .max_blocking_threads(config.validation_workers)
        .thread_name("agentlm-http")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let socket = bind(&config.hostname, config.port)?;
    let local_addr = socket.local_addr().map_err(ServeError::Runtime)?;
    let listener = {
        let _inside = runtime.enter();
        // Two sockets may be bound to one port; only one of them can listen.
        socket.listen(BACKLOG).map_err(|source| ServeError::Bind {
            address: local_addr,
            source,
        })?
    };
    let router = app::router(Arc::new(App::new(config, engine, tokenizer, renderer)));
    let (closing, watcher) = watch::channel(None);
    let acceptor = runtime.spawn(accept(listener, router, watcher));
    Ok(RunningServer {
        local_addr,
        closing,
        acceptor: Mutex::new(Some(acceptor)),
        runtime: Mutex::new(Some(runtime)),
    })
}

impl RunningServer {
    /// The address that is listened on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
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
        let acceptor = self.acceptor.lock().take();
        let runtime = self.runtime.lock().take();
        let (Some(acceptor), Some(runtime)) = (acceptor, runtime) else {
            return;
        };
        // The acceptor cannot be cancelled while the runtime lives; if it panicked the server is closed all the same.
        let _ = runtime.block_on(acceptor);
        runtime.shutdown_background();
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
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, router: Router, mut closing: watch::Receiver<Option<Duration>>) {
    let mut connections = JoinSet::new();
    let mut http = http1::Builder::new();
    // One flat buffer a write: streamed frames are far smaller than what vectored writes are good for.
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .writev(false);
    let (begun, begin) = (Arc::new(AtomicBool::new(false)), watch::channel(()).0);
    let grace = loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            grace = closed(&mut closing) => break grace,
        };
        // Frames are small and each is wanted now. If the option cannot be set they come later, not wrong.
        let _ = stream.set_nodelay(true);
        let socket = Socket::new(stream);
        let answers = Answers {
            line: socket.line(),
            routes: TowerToHyperService::new(router.clone()),
        };
        let connection = http.serve_connection(TokioIo::new(socket), answers);
        connections.spawn(converse(connection, begun.clone(), begin.subscribe()));
    };
    drop(listener);
    begun.store(true, Ordering::Release);
    begin.send_replace(());
    let last = async { while connections.join_next().await.is_some() {} };
    // Over time, what is left is closed.
    let _ = tokio::time::timeout(grace, last).await;
    connections.shutdown().await;
}

/// Serves one connection to its end. Once closing has begun, the answer in progress is its last.
///
/// A connection is polled at every token of every stream, so the closing is looked at by a flag; the channel only
/// wakes the connections that are silent.
async fn converse(connection: Connection, begun: Arc<AtomicBool>, mut begin: watch::Receiver<()>) {
    let mut connection = pin!(connection);
    let mut begin = pin!(begin.changed());
    let (mut subscribed, mut told) = (false, false);
    poll_fn(|context| {
        if !subscribed {
            subscribed = true;
            // The flag tells; this is for the wake-up.
            let _ = begin.as_mut().poll(context);
        }
        if !told && begun.load(Ordering::Acquire) {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        // A connection's own failure is the client's business: it is gone.
        connection.as_mut().poll(context).map(drop)
    })
    .await;
}

/// The grace, once there is one. A dropped server has none.
async fn closed(closing: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match closing.wait_for(Option::is_some).await {
        Ok(grace) => (*grace).unwrap_or_default(),
        Err(_) => Duration::ZERO,
    }
}

/// The routes, on one connection.
struct Answers {
    line: Arc<Line>,
    routes: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // A stream writes chunks, which version 1.0 does not know.
        let chunked = request.version() == Version::HTTP_11 && request.method() != Method::HEAD;
        let line = chunked.then(|| self.line.clone());
        let answer = self.routes.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if let (Some(entry), Some(line)) = (response.extensions_mut().remove::<Entry>(), line) {
                entry.offer(line);
            }
            Ok(response)
        })
    }
}

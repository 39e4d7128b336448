//! From an accepted connection to what its client wants: the phases before anything is handed on.
//!
//! At an address that is an app's alone its plan says what is spoken; so it does at a private one,
//! at which nobody but the machines of its network gets here. At a shared one the first byte does: a TLS handshake and a PostgreSQL client's name the app by SNI, HTTP by its host.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use godwit_catalog::{App, private};
use godwit_wire::components::Listener;
use rustls::server::Acceptor;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::connection::{self, Spoken};
use super::gather::Gather;
use super::plan::Plan;
use super::postgres::{self, Asks};
use super::prefix::any_has;
use super::proxy_header::{self, Read, Said};
use super::refused::Refused;
use super::relay::Side;
use super::tls::{Shown, Tls};
use super::worker::Worker;
use super::{bytes, ports, tls};
use crate::drain::Alive;
use crate::machines::targets::Handling;
use crate::metrics::count;
use crate::request::route;

/// The first byte of a TLS handshake, and of what a PostgreSQL client asks.
const TLS: u8 = 0x16;
const POSTGRES: u8 = 0x00;
/// A PostgreSQL client asks for one kind of encryption, and for another when it cannot have that.
const QUESTIONS: usize = 3;

/// Who connected where, as far as the edge believes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visitor {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) at: Listener,
    /// The private address of the machine that it is, where nobody but one gets.
    pub(crate) caller: Option<Ipv6Addr>,
}

/// Serve a connection to its end; `alive` keeps a drain waiting.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    alive: Alive,
    stream: TcpStream,
    peer: SocketAddr,
    at: Listener,
) {
    count(&worker.edge.metrics.connects);
    if let Err(why) = greet(&worker, stream, peer, at).await {
        worker.edge.front.refused.count(&why, at.port);
    }
    count(&worker.edge.metrics.disconnects);
    drop(alive);
}

async fn greet(
    worker: &Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    at: Listener,
) -> Result<(), Refused> {
    let local = stream.local_addr().map_err(|_| Refused::Left)?;
    let mut greeting = Greeting {
        worker,
        who: Visitor {
            peer,
            local,
            at,
            caller: None,
        },
        by: Instant::now() + Duration::from_millis(worker.edge.config.limits.handshake_ms),
        private: ports::flycast(&worker.edge.config) == Some(at),
    };
    if greeting.private {
        return greeting.at_private_address(stream).await;
    }
    let mut stream = stream;
    let proxies = &worker.edge.front.proxies;
    if any_has(proxies, peer.ip()) {
        greeting.heed_proxy(&mut stream).await?;
    }
    let _place = worker.edge.front.connections.from(greeting.who.peer.ip())?;
    let address = greeting.who.local.ip().to_canonical();
    let owner = match private::network_of_app(address) {
        None => worker.edge.watch.view().app_of_address(address).cloned(),
        // That somebody connected to one is not a proxy's to say.
        Some(_) => None,
    };
    match owner {
        Some(app) => greeting.at_own_address(stream, app).await,
        None => greeting.at_shared_address(stream).await,
    }
}

struct Greeting<'a> {
    worker: &'a Arc<Worker>,
    who: Visitor,
    by: Instant,
    /// It is a machine, at an address that an app has in its network.
    private: bool,
}

/// How a client came to speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// From the first byte.
    Directly,
    /// It asked as PostgreSQL's clients do.
    Asking,
}

impl Greeting<'_> {
    /// Serve a machine of this host: the host led its connection here, and the kernel knows where
    /// it was to. The packet policy has compared the networks; nothing hangs on that alone.
    async fn at_private_address(mut self, stream: TcpStream) -> Result<(), Refused> {
        let meant = SockRef::from(&stream).original_dst_v6();
        let meant = meant.ok().and_then(|address| address.as_socket());
        let meant = meant.ok_or(Refused::NotPrivate)?;
        let network = private::network_of_app(meant.ip()).ok_or(Refused::NotPrivate)?;
        if private::network(self.who.peer.ip()) != Some(network) {
            return Err(Refused::NotPrivate);
        }
        let edge = &self.worker.edge;
        let app = edge.watch.view().app_of_address(meant.ip()).cloned();
        let app = app.ok_or(Refused::NoApp)?;
        (self.who.local, self.who.at.port) = (meant, meant.port());
        if let IpAddr::V6(caller) = self.who.peer.ip() {
            self.who.caller = Some(caller);
        }
        count(&edge.metrics.private_connects);
        self.at_own_address(stream, app).await
    }

    async fn at_own_address(self, stream: TcpStream, app: Arc<App>) -> Result<(), Refused> {
        let _place = self.worker.edge.front.connections.to(&app.name)?;
        let plan = self.plan(&app)?;
        if plan.pg_tls {
            return match self.first_byte(&stream).await? {
                TLS => self.tls(stream, Some(app), Came::Directly).await,
                POSTGRES => self.postgres(stream, Some(app)).await,
                _ => Err(Refused::WrongProtocol),
            };
        }
        if plan.tls {
            return self.tls(stream, Some(app), Came::Directly).await;
        }
        if plan.handling == Handling::Http {
            let spoken = Spoken {
                handling: Handling::Http,
                app: Some(app.name.clone()),
                only_http_2: false,
                headers_read_timeout: plan.headers_read_timeout,
            };
            return self.http(Gather(stream), spoken).await;
        }
        self.bytes(stream, &app, &plan, &[]).await
    }

    async fn at_shared_address(self, stream: TcpStream) -> Result<(), Refused> {
        match self.first_byte(&stream).await? {
            TLS => self.tls(stream, None, Came::Directly).await,
            POSTGRES => self.postgres(stream, None).await,
            _ => {
                let spoken = Spoken {
                    handling: Handling::Http,
                    app: None,
                    only_http_2: false,
                    headers_read_timeout: None,
                };
                self.http(Gather(stream), spoken).await
            }
        }
    }

    // What serves is boxed, as is the handshake: who has said nothing yet holds no room for it.

    async fn http<I>(&self, stream: I, spoken: Spoken) -> Result<(), Refused>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let serving = connection::serve(self.worker.clone(), &self.who, stream, spoken);
        Box::pin(serving).await;
        Ok(())
    }

    /// Hand a stream on, of which `said` was read already.
    async fn bytes<I>(
        &self,
        stream: I,
        app: &Arc<App>,
        plan: &Plan,
        said: &[u8],
    ) -> Result<(), Refused>
    where
        I: Side,
    {
        let client = bytes::Client { said, stream };
        Box::pin(bytes::serve(
            self.worker,
            &self.who,
            &app.name,
            plan,
            client,
        ))
        .await
    }

    fn plan(&self, app: &Arc<App>) -> Result<Arc<Plan>, Refused> {
        let plan = self.worker.plans.get(app, self.who.at.port);
        plan.ok_or(Refused::NoService)
    }

    /// Wait for the first byte, and leave it where it is.
    async fn first_byte(&self, stream: &TcpStream) -> Result<u8, Refused> {
        let within = Duration::from_millis(self.worker.edge.config.limits.header_ms);
        let mut first = [0];
        match timeout(within, stream.peek(&mut first)).await {
            Err(_) => Err(Refused::Silent),
            Ok(Ok(1)) => Ok(first[0]),
            Ok(_) => Err(Refused::Left),
        }
    }

    /// Take the header that a trusted proxy begins with.
    async fn heed_proxy(&mut self, stream: &mut TcpStream) -> Result<(), Refused> {
        let reading = timeout_at(self.by, read_proxy_header(stream));
        let said = reading.await.map_err(|_| Refused::Silent)?;
        if let Said::From(client, server) = said? {
            (self.who.peer, self.who.local) = (client, server);
        }
        Ok(())
    }

    /// Let a PostgreSQL client ask until it asks for TLS; within a private network it need not.
    async fn postgres(self, mut stream: TcpStream, app: Option<Arc<App>>) -> Result<(), Refused> {
        for _ in 0..QUESTIONS {
            let mut request = [0; postgres::REQUEST];
            let reading = timeout_at(self.by, stream.read_exact(&mut request)).await;
            reading
                .map_err(|_| Refused::Silent)?
                .map_err(|_| Refused::Left)?;
            let answer = match postgres::asks(request) {
                Asks::Tls => postgres::YES,
                Asks::Gss => postgres::NO,
                Asks::Other if self.private => {
                    let app = app.ok_or(Refused::NoApp)?;
                    let plan = self.plan(&app)?;
                    return self.bytes(stream, &app, &plan, &request).await;
                }
                Asks::Other => {
                    let error = postgres::error("this port takes connections with TLS only");
                    // It is closed either way.
                    let _ = stream.write_all(&error).await;
                    return Err(Refused::Postgres);
                }
            };
            stream.write_all(answer).await.map_err(|_| Refused::Left)?;
            if answer == postgres::YES {
                return self.tls(stream, app, Came::Asking).await;
            }
        }
        Err(Refused::Postgres)
    }

    /// Shake hands, then serve what is inside; `owner` is the app whose address it is.
    async fn tls(
        self,
        stream: TcpStream,
        owner: Option<Arc<App>>,
        came: Came,
    ) -> Result<(), Refused> {
        let front = &self.worker.edge.front;
        let tls = front.tls.as_ref().ok_or(Refused::NoTls)?;
        let under_way = front.handshakes.begin(self.who.peer.ip())?;
        let begun = Instant::now();
        let mut wanted = None;
        let shaking = self.handshake(tls, stream, owner.as_ref(), came, &mut wanted);
        let shaken = timeout_at(self.by, Box::pin(shaking)).await;
        let shaken = shaken.unwrap_or(Err(Refused::HandshakeTimeout));
        let metrics = &self.worker.edge.metrics.handshakes;
        let (stream, app, plan) = shaken.inspect_err(|_| metrics.failed(wanted.as_deref()))?;
        if let Some(times) = metrics.of(stream.get_ref().1.protocol_version()) {
            times.observe(begun.elapsed());
        }
        drop(under_way);
        let _place = match owner {
            // It has its place since it came.
            Some(_) => None,
            None => Some(front.connections.to(&app.name)?),
        };
        if plan.handling == Handling::Bytes {
            return self.bytes(stream, &app, &plan, &[]).await;
        }
        let spoken = Spoken {
            handling: Handling::Https,
            app: owner.map(|app| app.name.clone()),
            only_http_2: stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            headers_read_timeout: plan.headers_read_timeout,
        };
        self.http(stream, spoken).await
    }

    /// The host of an app that the client wants is noted in `wanted`, for who counts failures.
    async fn handshake(
        &self,
        tls: &Tls,
        stream: TcpStream,
        owner: Option<&Arc<App>>,
        came: Came,
        wanted: &mut Option<String>,
    ) -> Result<(TlsStream<Gather<TcpStream>>, Arc<App>, Arc<Plan>), Refused> {
        let said = |error: std::io::Error| Refused::Handshake(error.to_string());
        let start = LazyConfigAcceptor::new(Acceptor::default(), Gather(stream));
        let start = start.await.map_err(said)?;
        let mut place = None;
        let chosen = self
            .choose(&start, owner, came, wanted)
            .and_then(|(app, plan, shown)| {
                place = Some(self.worker.edge.front.handshakes.to(&app.name)?);
                let config = tls.config(&plan.profile, shown);
                let config = config.map_err(|_| Refused::NoCertificate)?;
                Ok((app, plan, config))
            });
        let (app, plan, config) = match chosen {
            Ok(chosen) => chosen,
            Err(refused) => {
                // So that the client is told by an alert.
                let _ = start.into_stream(tls.refusing()).await;
                return Err(refused);
            }
        };
        let stream = start.into_stream(config).await.map_err(said)?;
        drop(place);
        let protocol = stream.get_ref().1.alpn_protocol();
        if plan.pg_tls && came == Came::Directly && protocol != Some(b"postgresql") {
            // As servers demand it: another protocol's client cannot be led here.
            return Err(Refused::WrongProtocol);
        }
        Ok((stream, app, plan))
    }

    /// Decide by the client's first words whom it gets, and what it is shown; the host that it
    /// wants is noted, if an app has it.
    fn choose(
        &self,
        start: &StartHandshake<Gather<TcpStream>>,
        owner: Option<&Arc<App>>,
        came: Came,
        wanted: &mut Option<String>,
    ) -> Result<(Arc<App>, Arc<Plan>, Shown), Refused> {
        let hello = start.client_hello();
        let named = hello.server_name().map(str::to_ascii_lowercase);
        let edge = &self.worker.edge;
        let view = edge.watch.view();
        let domain = &edge.config.apps_domain;
        let found = named
            .as_ref()
            .and_then(|name| route::app(&view, name, domain));
        *wanted = found.and(named.clone());
        let app = match (owner, &named) {
            (Some(owner), _) => owner,
            (None, Some(_)) => found.ok_or(Refused::NoApp)?,
            (None, None) => return Err(Refused::Nameless),
        };
        let plan = self.plan(app)?;
        let fits = match came {
            Came::Directly => plan.tls || plan.pg_tls,
            Came::Asking => plan.pg_tls,
        };
        if !fits {
            return Err(Refused::WrongProtocol);
        }
        let private =
            |name: &str| self.private && name.strip_suffix(".flycast") == Some(app.name.as_ref());
        let own = found.is_some_and(|found| found.name == app.name)
            || named.as_deref().is_some_and(private);
        let shown = match named {
            Some(name) if own => tls::shown(&name, domain),
            Some(name) if plan.self_signed => Shown::SelfSigned(name),
            Some(_) => return Err(Refused::NoCertificate),
            None => Shown::Address(format!("{}.{domain}", app.name), self.who.local.ip()),
        };
        Ok((app.clone(), plan, shown))
    }
}

async fn read_proxy_header(stream: &mut TcpStream) -> Result<Said, Refused> {
    let mut header = Vec::new();
    loop {
        let mut next = [0; 1024];
        let count = stream.peek(&mut next).await.map_err(|_| Refused::Left)?;
        if count == 0 {
            return Err(Refused::Left);
        }
        let before = header.len();
        header.extend_from_slice(&next[..count]);
        let (taken, said) = match proxy_header::read(&header) {
            Read::Whole(said, length) => (length - before, Some(said)),
            Read::More => (count, None),
            Read::Wrong => return Err(Refused::ProxyHeader),
        };
        let taking = stream.read_exact(&mut next[..taken]).await;
        taking.map_err(|_| Refused::Left)?;
        if let Some(said) = said {
            return Ok(said);
        }
    }
}

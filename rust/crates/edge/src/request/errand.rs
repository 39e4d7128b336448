//! Carrying a request to a machine: find one, send, and send elsewhere what nobody took.
//!
//! The same on the edge that a client came to and on the machine's own: the first may find the
//! machine on another host, the second only on its own.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::sleep;

use crate::backhaul::{Bounce, Carry, ORDER, Order, Reply, Tunnel};
use crate::front::worker::Worker;
use crate::machines::app_body::AppBody;
use crate::machines::departure::departed;
use crate::machines::files;
use crate::machines::line::{Asked, Unanswered};
use crate::machines::reach::Search;
use crate::machines::reached::{Link, Reached};
use crate::machines::targets::Targets;
use crate::machines::upstream::{Becomes, Need};
use crate::metrics::{AppMetrics, count};
use crate::request::arrived::{Opening, Teller};
use crate::request::body::Upload;
use crate::request::ending::Held;
use crate::request::headers;
use crate::request::introduction::Introduction;
use crate::request::refusal::{self, Refusal};
use crate::request::source::Source;
use crate::request::websocket;

/// A request is sent so many times at most.
const SENDS: usize = 3;
/// A response that takes longer is worth looking whether its machine is still there.
const USUALLY_WITHIN: Duration = Duration::from_secs(1);

/// A request as machines get it.
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) uri: Uri,
    /// Without any of one hop alone.
    pub(crate) headers: HeaderMap,
    /// What the edge says of the client, as long as the headers have it not.
    pub(crate) introduction: Option<Introduction<'a>>,
    /// `None` for an empty body.
    pub(crate) source: Option<Arc<Source>>,
    /// What the connection is to become.
    pub(crate) protocol: Option<HeaderValue>,
    /// Whose uploads it counts as; `None` at the edge of the machine's host.
    pub(crate) metrics: Option<Arc<AppMetrics>>,
    /// Tells the client what the app says before its response; `None` for one that cannot be told.
    pub(crate) hints: Option<Teller>,
    /// Another edge says that it may be sent a second time.
    pub(crate) may_repeat: bool,
    /// A machine may have seen it.
    pub(crate) touched: bool,
}

/// A machine's response.
pub(crate) struct Answer {
    pub(crate) response: Response<AppBody>,
    pub(crate) held: Held,
    pub(crate) targets: Arc<Targets>,
    /// The machine's end of the tunnel that the connection has become; the status is 101 then.
    pub(crate) tunnel: Option<Opening>,
}

/// What became of one attempt.
enum Sent {
    Answer(Box<Answer>),
    /// The machine has no file for it.
    NoFile,
    /// Its host's edge sent it back; no machine has seen it.
    Bounced(Bounce, Refusal, Reached),
    /// Nothing was answered, and why.
    Broke {
        refusal: Refusal,
        machine_id: Arc<str>,
        targets: Arc<Targets>,
        /// It was on its way already.
        on_its_way: bool,
    },
}

/// How the wait for a response ended.
enum Outcome<T> {
    Answered(T),
    /// The machine was taken away without a word.
    Gone,
    Late,
}

impl Errand<'_> {
    /// Put among the headers what the edge says of the client.
    pub(crate) fn introduce(&mut self) {
        if let Some(introduction) = self.introduction.take() {
            introduction.put(&mut self.headers);
        }
    }

    /// Whether all of it is still there to be sent once more.
    pub(crate) fn is_whole(&self) -> bool {
        self.source
            .as_ref()
            .is_none_or(|source| source.can_repeat())
    }

    /// Whether it may be sent again though a machine may have seen it.
    fn is_repeatable(&self) -> bool {
        (self.may_repeat || self.method.is_idempotent()) && self.is_whole()
    }

    fn may_be_for_file(&self) -> bool {
        self.is_bare() && (self.method == Method::GET || self.method == Method::HEAD)
    }

    /// Carry it; `note` is told of every machine it is sent to, `find` gives the app's targets.
    pub(crate) async fn run(
        &mut self,
        worker: &Worker,
        search: &mut Search<'_>,
        mut note: impl FnMut(&Reached),
        find: impl Fn() -> Result<Arc<Targets>, Refusal>,
    ) -> Result<Box<Answer>, Refusal> {
        let (mut sends, mut is_for_app) = (0, false);
        loop {
            let need = Need {
                repeatable: self.is_repeatable(),
                fresh: sends > 0 || self.protocol.is_some(),
                path: (!is_for_app && self.may_be_for_file()).then(|| self.uri.path()),
                becomes: self.protocol.as_ref().map(Becomes::of),
            };
            let reached = search.next(need, &find).await?;
            note(&reached);
            match self.send(worker, search, reached).await? {
                Sent::Answer(answer) => return Ok(answer),
                Sent::NoFile => is_for_app = true,
                Sent::Bounced(bounce, refusal, reached) => {
                    if !self.is_whole() {
                        return Err(self.cut_off(refusal));
                    }
                    search.bounced(&reached, bounce, refusal);
                }
                Sent::Broke {
                    refusal,
                    machine_id,
                    targets,
                    on_its_way,
                } => {
                    sends += 1;
                    let again = if on_its_way {
                        self.is_repeatable()
                    } else {
                        self.is_whole()
                    };
                    if !again || sends >= SENDS {
                        return Err(self.cut_off(refusal));
                    }
                    count(&targets.metrics.retries);
                    // A kept connection that was closed says nothing of its machine.
                    if (on_its_way || sends > 1) && targets.ready.len() > 1 {
                        search.broke_off(&machine_id);
                    }
                }
            }
        }
    }

    fn cut_off(&self, refusal: Refusal) -> Refusal {
        match &self.source {
            Some(source) if source.client_broke_off() => refusal::client_broke_off(),
            _ => refusal,
        }
    }

    async fn send(
        &mut self,
        worker: &Worker,
        search: &Search<'_>,
        mut reached: Reached,
    ) -> Result<Sent, Refusal> {
        let missed = search.wish.missed(&reached.machine_id);
        let besides = missed.and_then(|missed| headers::unavailable(missed));
        let there = matches!(reached.link, Link::There { .. });
        if there {
            count(&worker.edge.metrics.backhaul.sent);
        }
        let mut alarm = worker.alarms.take();
        let is_files = reached.link.is_files();
        let link = reached.link.lend();
        let outcome = {
            let mut sending = pin!(async {
                match link {
                    Link::Here(upstream) if upstream.is_line() && self.is_bare() => {
                        let heeded = is_files.then(|| files::heeded(&self.headers));
                        let asked = Asked {
                            method: &self.method,
                            uri: &self.uri,
                            headers: heeded.as_ref().unwrap_or(&self.headers),
                            introduction: self.introduction.as_ref().filter(|_| !is_files),
                            besides: besides.filter(|_| !is_files),
                        };
                        let response = upstream.ask(&asked, self.told()).await?;
                        Ok((response, Link::Lent))
                    }
                    link => Box::pin(self.by_task(search, &reached, link, besides)).await,
                }
            });
            let limit = Duration::from_millis(worker.edge.config.limits.response_ms);
            let within = reached.targets.idle().unwrap_or(limit);
            let soon = USUALLY_WITHIN.min(within);
            if let Some(result) = alarm.within(soon, sending.as_mut()).await {
                Outcome::Answered(result)
            } else {
                // Another host's edge sees itself to machines that go.
                let machine = (!there).then(|| reached.machine_id.clone());
                // Boxed, so that the many that are answered soon hold no room for it.
                Box::pin(self.late(worker, sending, machine, (soon, within))).await
            }
        };
        worker.alarms.keep(alarm);
        let port = reached.internal_port;
        let on_its_way = match outcome {
            Outcome::Answered(Ok((response, link))) => {
                reached.link = link;
                if there {
                    return Ok(self.heard(response, reached));
                }
                if is_files {
                    return filed(response, reached);
                }
                self.touched = true;
                return Ok(Sent::Answer(Box::new(answer(response, reached))));
            }
            Outcome::Answered(Err(Unanswered { unsent, error })) => {
                let targets = &reached.targets;
                log::debug!(org_id = targets.org_id(); "{}: {error}", targets.app_name());
                !unsent
            }
            Outcome::Gone => true,
            Outcome::Late => {
                self.touched = true;
                return Err(refusal::no_response(port));
            }
        };
        self.touched |= on_its_way;
        Ok(Sent::Broke {
            refusal: broken(there, is_files, port),
            machine_id: reached.machine_id,
            targets: reached.targets,
            on_its_way,
        })
    }

    /// Whether there is nothing to it but a head.
    fn is_bare(&self) -> bool {
        self.source.is_none() && self.protocol.is_none()
    }

    /// Send it on a connection that a task drives; the link is returned with the response.
    async fn by_task(
        &self,
        search: &Search<'_>,
        reached: &Reached,
        link: Link,
        besides: Option<(HeaderName, HeaderValue)>,
    ) -> Result<(Response<AppBody>, Link), Unanswered> {
        let mut request = self.request();
        request.headers_mut().extend(besides);
        match link {
            Link::Here(upstream) => {
                if upstream.is_h2() {
                    if self.protocol.is_some() {
                        websocket::to_http_2(&mut request);
                    }
                    headers::to_h2(&mut request);
                } else {
                    if let Some(protocol) = &self.protocol {
                        headers::set_upgrade(request.headers_mut(), protocol.clone());
                    }
                    if self
                        .source
                        .as_ref()
                        .is_some_and(|source| source.length.is_none())
                    {
                        // hyper leaves such a body away where a method seldom has one, as GET.
                        let chunked = HeaderValue::from_static("chunked");
                        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
                    }
                    self.listen(&mut request).await;
                }
                let (mut response, upstream) = upstream.send(request, self.told()).await?;
                if self.protocol.is_some() && upstream.is_h2() {
                    let key = self.headers.get(SEC_WEBSOCKET_KEY);
                    websocket::opened_by_http_2(&mut response, key);
                }
                let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                if upgraded && self.protocol.is_none() {
                    return Err(Unanswered {
                        unsent: false,
                        error: "it speaks another protocol that nobody asked for".into(),
                    });
                }
                Ok((response, Link::Here(upstream)))
            }
            Link::There { stream, queue } => {
                self.address(&mut request, search, reached, queue);
                let response = stream.client.ask(request, self.told()).await?;
                Ok((response.map(AppBody::Stream), Link::There { stream, queue }))
            }
            // Nothing of the kind is found for requests.
            Link::Bytes(..) | Link::Datagrams | Link::Lent => std::future::pending().await,
        }
    }

    /// What is to hear what a machine says before its response: the client, where it can.
    fn told(&self) -> impl Fn(StatusCode, &HeaderMap) {
        let hints = self.hints.as_ref();
        move |status, headers| {
            if let Some(hints) = hints {
                hints.tell(status, headers);
            }
        }
    }

    /// Have the client told what a machine says before its response, which another task hears.
    async fn listen(&self, request: &mut Request<Upload>) {
        if let Some(hints) = &self.hints {
            let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            hints.listen(request, task);
        }
    }

    /// The request for a machine of this host.
    pub(crate) fn request(&self) -> Request<Upload> {
        let upload = match &self.source {
            None => Upload::Empty,
            Some(source) => Upload::Client {
                reading: source.read(),
                metrics: self.metrics.clone(),
            },
        };
        let mut request = Request::new(upload);
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.uri);
        request.headers_mut().clone_from(&self.headers);
        if let Some(introduction) = &self.introduction {
            introduction.put(request.headers_mut());
        }
        request
    }

    /// Turn the request into one for the edge of another host.
    fn address(
        &self,
        request: &mut Request<Upload>,
        search: &Search<'_>,
        reached: &Reached,
        queue: Duration,
    ) {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let tunnel = self.protocol.as_ref().map(|protocol| Tunnel {
            method: self.method.to_string(),
            path: path.to_owned(),
            protocol: protocol.to_str().unwrap_or_default().to_owned(),
        });
        if tunnel.is_some() {
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = Uri::from_static("godwit:80");
        } else {
            let mut uri = Uri::from_static("http://godwit/").into_parts();
            uri.path_and_query = self.uri.path_and_query().cloned();
            if let Ok(uri) = Uri::from_parts(uri) {
                *request.uri_mut() = uri;
            }
        }
        *request.version_mut() = Version::HTTP_2;
        let carry = Carry {
            app: reached.targets.app_name().to_string(),
            app_id: reached.targets.app_id().to_owned(),
            port: search.at().0,
            handling: search.at().1,
            machine: reached.machine_id.to_string(),
            only: !search.wish.is_any(),
            repeatable: self.is_repeatable(),
            queue_ms: u64::try_from(queue.as_millis()).unwrap_or(u64::MAX),
            // The millisecond begun counts, so that the time is over here when it is there.
            wake_ms: u64::try_from(search.wake_left().as_millis() + 1).ok(),
            tunnel,
            visit: None,
        };
        let order = Order::Carry(Box::new(carry)).value();
        request.headers_mut().insert(ORDER, order);
    }

    /// Read what the edge of another host answered.
    fn heard(&mut self, mut response: Response<AppBody>, mut reached: Reached) -> Sent {
        let Some(reply) = Reply::take(response.headers_mut()) else {
            self.touched = true;
            return Sent::Broke {
                refusal: refusal::host_broke_off(),
                machine_id: reached.machine_id,
                targets: reached.targets,
                on_its_way: true,
            };
        };
        if let Some(refused) = reply.refusal {
            let refusal = refused.refusal();
            let Some(bounce) = refused.bounce else {
                self.touched = true;
                return Sent::Broke {
                    refusal,
                    machine_id: reached.machine_id,
                    targets: reached.targets,
                    on_its_way: true,
                };
            };
            return Sent::Bounced(bounce, refusal, reached);
        }
        self.touched = true;
        let load = reached.slot.load();
        load.clear_suspect();
        if *reply.machine == *reached.machine_id {
            load.set_told(reply.active);
        } else {
            reached.machine_id = reply.machine.into();
        }
        if let Some(status) = reply
            .status
            .and_then(|code| StatusCode::from_u16(code).ok())
        {
            *response.status_mut() = status;
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(protocol) = self.protocol.as_ref().filter(|_| upgraded) {
            headers::set_upgrade(response.headers_mut(), protocol.clone());
        }
        Sent::Answer(Box::new(answer(response, reached)))
    }

    /// Wait for a response that did not come soon, for as long as the body moves, and then the time
    /// of the limit; no longer than the machine lives. Of that time a part has `waited`.
    async fn late<T>(
        &self,
        worker: &Worker,
        mut sending: Pin<&mut impl Future<Output = T>>,
        machine_id: Option<Arc<str>>,
        (waited, limit): (Duration, Duration),
    ) -> Outcome<T> {
        let nothing = AtomicU64::new(0);
        let came = self.source.as_ref().map_or(&nothing, |source| &source.came);
        let gone = async {
            match &machine_id {
                Some(machine_id) => departed(&worker.edge, machine_id).await,
                None => std::future::pending().await,
            }
        };
        let mut gone = pin!(gone);
        let mut within = limit.saturating_sub(waited);
        loop {
            let before = came.load(Relaxed);
            tokio::select! {
                result = sending.as_mut() => return Outcome::Answered(result),
                () = gone.as_mut() => return Outcome::Gone,
                () = sleep(within) => {}
            }
            if came.load(Relaxed) == before {
                return Outcome::Late;
            }
            within = limit;
        }
    }
}

/// Why nothing was answered.
fn broken(there: bool, is_files: bool, port: u16) -> Refusal {
    match (there, is_files) {
        (true, _) => refusal::host_broke_off(),
        (_, true) => refusal::no_statics(&"it ended the connection without a response"),
        _ => refusal::broken(port),
    }
}

/// What a file server's response comes to.
fn filed(response: Response<AppBody>, reached: Reached) -> Result<Sent, Refusal> {
    let status = response.status();
    if status.is_server_error() {
        return Err(refusal::no_statics(&status));
    }
    if status == StatusCode::NOT_FOUND {
        return Ok(Sent::NoFile);
    }
    count(&reached.targets.metrics.files);
    Ok(Sent::Answer(Box::new(answer(response, reached))))
}

/// The machine's end of a tunnel that a response opens.
fn opening(response: &mut Response<AppBody>) -> Opening {
    match response.body_mut().tunnel() {
        Some(tunnel) => Opening::Asked(Box::new(tunnel)),
        None => Opening::Connection(hyper::upgrade::on(response)),
    }
}

fn answer(mut response: Response<AppBody>, mut reached: Reached) -> Answer {
    let served = reached.served(response.status());
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let tunnel = upgraded.then(|| opening(&mut response));
    Answer {
        response,
        held: Held {
            slot: reached.slot,
            machine_id: reached.machine_id,
            link: Some(reached.link),
            _served: served,
        },
        targets: reached.targets,
        tunnel,
    }
}

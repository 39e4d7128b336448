//! Requests to the platform's own API: they go to whichever control answers.
//!
//! What was not sent, and every read, is sent to the next one when a control breaks off or stands
//! still; the client is told of anything else. Reads may wait for something to happen, so that
//! lateness alone says nothing: such a control is asked how it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use tokio::time::{sleep, timeout};

use super::Exchange;
use crate::machines::app_body::AppBody;
use crate::machines::upstream;
use crate::metrics::count;
use crate::request::arrived::ClientBody;
use crate::request::body::{Download, Upload};
use crate::request::errand::Errand;
use crate::request::headers::{self, Seen};
use crate::request::paced::Paced;
use crate::request::refusal::{self, Refusal};

/// A control that takes longer is asked how it is.
const USUALLY_WITHIN: Duration = Duration::from_secs(3);
/// It takes no longer to say so, unless it stands still.
const SAYS_WITHIN: Duration = Duration::from_secs(5);
const HEALTH: &str = "/x/v1/health";

/// What became of a request to one control.
enum Asked {
    Answered(Response<Incoming>),
    /// It is to be sent to another.
    Again,
}

impl Exchange<'_> {
    /// Whether a host name is that of the API.
    pub(super) fn is_of_control(&self, host: &str) -> bool {
        let api = self.connection.worker.edge.config.api.as_ref();
        self.connection.app.is_none() && api.is_some_and(|api| api.name == host)
    }

    /// Have one of the controls answer.
    pub(super) async fn ask_control(
        &mut self,
        request: Request<ClientBody>,
    ) -> Result<Response<Download>, Refusal> {
        let edge = self.connection.worker.edge.clone();
        let Some(api) = &edge.config.api else {
            return Err(refusal::no_control());
        };
        let metrics = edge.metrics.app(&Arc::from(api.name.as_str()), None);
        let seen = Seen::of(request.headers());
        let errand = self.errand(request, seen, &metrics, None);
        let view = edge.watch.view();
        let known = view.controls().chain(api.servers.iter().copied());
        let mut left = edge.controls.order(known).into_iter().peekable();
        let within = Duration::from_millis(edge.config.limits.connect_ms);
        while let Some(address) = left.next() {
            let sender = match upstream::dial_at(address, within).await {
                Ok(stream) => upstream::speak(stream, None).await,
                Err(error) => Err(error),
            };
            match sender {
                Ok(mut sender) => {
                    let watched = left.peek().map(|_| address);
                    match self.ask(&errand, &mut sender, watched).await? {
                        Asked::Answered(response) => return Ok(self.respond_for_control(response)),
                        Asked::Again => log::warn!("control at {address} answered no request"),
                    }
                    count(&metrics.retries);
                }
                Err(error) => {
                    log::warn!("control at {address} is not reached: {error}");
                    count(&metrics.upstream_failures);
                }
            }
            edge.controls.rest(address);
        }
        Err(refusal::no_control())
    }

    /// Send a request to one control.
    ///
    /// `watched` is its address if there are others to ask should it stand still.
    async fn ask(
        &self,
        errand: &Errand<'_>,
        sender: &mut SendRequest<Upload>,
        watched: Option<SocketAddr>,
    ) -> Result<Asked, Refusal> {
        let reads = errand.method.is_safe() && errand.source.is_none();
        let sending = sender.try_send_request(errand.request());
        let answer = tokio::select! {
            answer = self.answer_within(errand, sending) => answer,
            () = stands_still(watched.filter(|_| reads)) => return Ok(Asked::Again),
        };
        match answer {
            None => Err(refusal::control_is_late()),
            Some(Ok(response)) => Ok(Asked::Answered(response)),
            Some(Err(mut error)) => {
                let unsent = error.take_message().is_some();
                let source = errand.source.as_ref();
                if source.is_some_and(|source| source.client_broke_off()) {
                    Err(refusal::client_broke_off())
                } else if reads || (unsent && errand.is_whole()) {
                    Ok(Asked::Again)
                } else {
                    Err(refusal::control_broke_off())
                }
            }
        }
    }

    /// Wait for the response as long as the body moves, and then the time of the limit.
    async fn answer_within<T>(
        &self,
        errand: &Errand<'_>,
        sending: impl Future<Output = T>,
    ) -> Option<T> {
        let limits = &self.connection.worker.edge.config.limits;
        let within = Duration::from_millis(limits.response_ms);
        let came = || {
            errand
                .source
                .as_ref()
                .map(|source| source.came.load(Relaxed))
        };
        let mut sending = std::pin::pin!(sending);
        loop {
            let before = came();
            if let Ok(result) = timeout(within, sending.as_mut()).await {
                return Some(result);
            }
            if came() == before {
                return None;
            }
        }
    }

    fn respond_for_control(&mut self, response: Response<Incoming>) -> Response<Download> {
        let (mut parts, body) = response.into_parts();
        parts.version = self.version;
        let seen = Seen::of(&parts.headers);
        headers::to_client(&mut parts.headers, seen, &self.id, self.version, None);
        let ending = self.ending(parts.status, None);
        let body = Paced::new(AppBody::Hyper(body), None, None);
        Response::from_parts(parts, Download::app(body, ending))
    }
}

/// Return once a control says nothing of itself any more; never for none.
async fn stands_still(control: Option<SocketAddr>) {
    let Some(address) = control else {
        return std::future::pending().await;
    };
    loop {
        sleep(USUALLY_WITHIN).await;
        if !matches!(timeout(SAYS_WITHIN, is_well(address)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Have a control answer anything at all.
async fn is_well(address: SocketAddr) -> io::Result<()> {
    let stream = upstream::dial_at(address, SAYS_WITHIN).await?;
    let mut sender = upstream::speak(stream, None).await?;
    let mut request = Request::new(Upload::Empty);
    *request.uri_mut() = Uri::from_static(HEALTH);
    let host = HeaderValue::from_static("control");
    request.headers_mut().insert(HOST, host);
    let answer = sender.try_send_request(request).await;
    answer
        .map(|_| ())
        .map_err(|error| io::Error::other(error.into_error()))
}

//! The agent's local catalog socket: facts in, wakes and counts out, connected again whenever
//! it breaks.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_wire::facts::{LOCAL_VERSION, LocalFrame, LocalRequest};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::Sources;
use crate::backoff::Backoff;
use crate::event::Event;
use crate::flights::Flights;
use crate::shared::{Distances, Shared};
use crate::waker::{Answer, Ask, Wake, WakeError};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const GREATEST_PAUSE: Duration = Duration::from_secs(2);
/// A line longer than any fact the bus would take is no line of ours; it is passed over.
const LONGEST_LINE: u64 = 1 << 20;
/// A wake that was asked for longer ago is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Counts that wait to be written; an agent that reads none of them asks in vain.
const COUNTS: usize = 1024;

/// Questions that the agent has not answered, by machine.
#[derive(Debug, Default)]
struct Pending {
    last_id: u64,
    machines: HashMap<Arc<str>, Question>,
}

#[derive(Debug)]
struct Question {
    id: u64,
    asked: Instant,
    answers: Vec<Answer>,
}

/// Follow the agent for ever.
pub(crate) async fn follow(sources: &Sources, shared: &Shared, events: &mpsc::Sender<Event>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, GREATEST_PAUSE);
    let mut told = false;
    loop {
        match UnixStream::connect(&sources.agent_socket).await {
            Ok(stream) => {
                log::info!("the agent is there");
                told = false;
                backoff.reset();
                let ended = session(stream, sources, shared, events).await;
                log::warn!("the agent is gone: {}", reason(ended));
            }
            Err(error) if !told => {
                told = true;
                log::warn!("no agent at {}: {error}", sources.agent_socket.display());
            }
            Err(_) => {}
        }
        sleep(backoff.pause()).await;
    }
}

fn reason(ended: io::Result<()>) -> String {
    ended.err().map_or_else(
        || "it closed the connection".to_owned(),
        |error| error.to_string(),
    )
}

async fn session(
    stream: UnixStream,
    sources: &Sources,
    shared: &Shared,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    if sources.flights.is_some() {
        let component = sources.component.to_owned();
        let v = LOCAL_VERSION;
        write_line(&mut write, &LocalRequest::Hello { v, component }).await?;
    }
    let pending = Mutex::new(Pending::default());
    let (counted, counts) = mpsc::channel(COUNTS);
    let teller = Teller {
        flights: sources.flights.as_deref(),
        counted,
    };
    let wakes = shared.waker.connect();
    shared.status.agent_connected.store(true, Relaxed);
    let ended = tokio::select! {
        ended = read_frames(read, shared, events, &pending, &teller) => ended,
        ended = write_requests(write, wakes, counts, &pending) => ended,
    };
    shared.waker.disconnect();
    shared.status.agent_connected.store(false, Relaxed);
    shared.status.agent_synced.store(false, Relaxed);
    ended
}

async fn read_frames(
    read: OwnedReadHalf,
    shared: &Shared,
    events: &mpsc::Sender<Event>,
    pending: &Mutex<Pending>,
    teller: &Teller<'_>,
) -> io::Result<()> {
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    send(events, Event::AgentBegins).await?;
    while next_line(&mut lines, &mut line).await? {
        match serde_json::from_slice(&line) {
            Ok(LocalFrame::Fact { fact }) => {
                send(events, Event::AgentFact(Box::new(fact))).await?;
            }
            Ok(LocalFrame::Synced {}) => {
                send(events, Event::AgentSynced).await?;
                shared.status.agent_synced.store(true, Relaxed);
            }
            Ok(LocalFrame::Woken { id }) => {
                // The fact that it is started came before: whoever waits shall find it.
                shown(events).await?;
                held(pending).answer(id, &Ok(()));
            }
            Ok(LocalFrame::Count { id, machine_id }) => {
                // A request that is sent from now on has seen every fact before this line.
                shown(events).await?;
                teller.tell(id, &machine_id);
            }
            Ok(LocalFrame::Distances { hosts, regions }) => {
                let told = Distances { hosts, regions };
                shared.distances.store(Arc::new(told));
            }
            Ok(LocalFrame::Error {
                id: Some(id),
                message,
            }) => {
                let refused = WakeError::Refused(message.unwrap_or_default());
                held(pending).answer(id, &Err(refused));
            }
            Ok(LocalFrame::Error { id: None, message }) => {
                log::warn!("the agent says: {}", message.unwrap_or_default());
            }
            Err(_) => send(events, Event::AgentUnreadable).await?,
        }
    }
    Ok(())
}

/// Read the next line; false when the agent has closed the connection.
///
/// One that is too long is read to its end and comes back empty, which is unreadable: a record of
/// one machine must not keep those of all others from being read.
async fn next_line(lines: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut too_long = false;
    loop {
        line.clear();
        let mut bounded = (&mut *lines).take(LONGEST_LINE);
        bounded.read_until(b'\n', line).await?;
        if line.last() == Some(&b'\n') {
            if too_long {
                line.clear();
            }
            return Ok(true);
        }
        if bounded.limit() > 0 {
            return Ok(false);
        }
        too_long = true;
    }
}

async fn write_requests(
    mut write: OwnedWriteHalf,
    mut asks: mpsc::Receiver<Ask>,
    mut counts: mpsc::Receiver<LocalRequest>,
    pending: &Mutex<Pending>,
) -> io::Result<()> {
    loop {
        let request = tokio::select! {
            ask = asks.recv() => match ask {
                Some(Ask::Wake(wake)) => held(pending).ask(wake),
                Some(Ask::Stop { machine_id, suspend }) => Some(LocalRequest::Stop {
                    machine_id: machine_id.to_string(),
                    suspend,
                }),
                None => return Ok(()),
            },
            count = counts.recv() => count,
        };
        if let Some(request) = request {
            write_line(&mut write, &request).await?;
        }
    }
}

async fn write_line(write: &mut OwnedWriteHalf, request: &LocalRequest) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// Answers what the agent asks of the requests in flight.
struct Teller<'a> {
    flights: Option<&'a dyn Flights>,
    counted: mpsc::Sender<LocalRequest>,
}

impl Teller<'_> {
    fn tell(&self, id: u64, machine_id: &str) {
        let Some(flights) = self.flights else {
            return;
        };
        let found = flights.of(machine_id);
        let (requests, tunnels) = (found.requests, found.tunnels);
        // The agent's question has a deadline of its own.
        let _ = self.counted.try_send(LocalRequest::Counted {
            id,
            requests,
            tunnels,
        });
    }
}

async fn send(events: &mpsc::Sender<Event>, event: Event) -> io::Result<()> {
    events
        .send(event)
        .await
        .map_err(|_| io::Error::other("the catalog's owner has ended"))
}

async fn shown(events: &mpsc::Sender<Event>) -> io::Result<()> {
    let (tell, told) = oneshot::channel();
    send(events, Event::Shown(tell)).await?;
    told.await
        .map_err(|_| io::Error::other("the catalog's owner has ended"))
}

fn held(pending: &Mutex<Pending>) -> std::sync::MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pending {
    /// Note a wake; returns the question to send unless the machine is asked for already.
    fn ask(&mut self, wake: Wake) -> Option<LocalRequest> {
        let next = self.last_id + 1;
        let fresh = || Question {
            id: next,
            asked: Instant::now(),
            answers: Vec::new(),
        };
        let question = self
            .machines
            .entry(wake.machine_id.clone())
            .or_insert_with(fresh);
        question.answers.push(wake.answer);
        if question.id != next {
            if question.asked.elapsed() < ASK_AGAIN {
                question.answers.retain(|answer| !answer.is_closed());
                return None;
            }
            (question.id, question.asked) = (next, Instant::now());
        }
        self.last_id = next;
        Some(LocalRequest::Wake {
            id: next,
            machine_id: wake.machine_id.to_string(),
        })
    }

    fn answer(&mut self, id: u64, result: &Result<(), WakeError>) {
        let machine = self.machines.iter().find(|(_, question)| question.id == id);
        let Some(machine) = machine.map(|(machine, _)| machine.clone()) else {
            return;
        };
        for answer in self
            .machines
            .remove(&machine)
            .into_iter()
            .flat_map(|q| q.answers)
        {
            // Who asked may have given up meanwhile.
            let _ = answer.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake(machine: &str) -> (Wake, oneshot::Receiver<Result<(), WakeError>>) {
        let (answer, answered) = oneshot::channel();
        (
            Wake {
                machine_id: machine.into(),
                answer,
            },
            answered,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn requests_for_one_machine_share_one_question() {
        let mut pending = Pending::default();
        let (first, mut first_answer) = wake("m1");
        let (second, mut second_answer) = wake("m1");
        assert!(pending.ask(first).is_some());
        assert!(pending.ask(second).is_none());
        pending.answer(1, &Ok(()));
        assert_eq!(first_answer.try_recv(), Ok(Ok(())));
        assert_eq!(second_answer.try_recv(), Ok(Ok(())));
        assert!(pending.machines.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_answer_is_asked_again_later() {
        let mut pending = Pending::default();
        let (first, mut answered) = wake("m1");
        pending.ask(first);
        tokio::time::advance(ASK_AGAIN).await;
        let (second, _kept) = wake("m1");
        let asked = pending.ask(second);
        assert_eq!(
            asked,
            Some(LocalRequest::Wake {
                id: 2,
                machine_id: "m1".to_owned()
            })
        );
        pending.answer(2, &Err(WakeError::Refused("no room".to_owned())));
        assert_eq!(
            answered.try_recv(),
            Ok(Err(WakeError::Refused("no room".to_owned())))
        );
    }
}

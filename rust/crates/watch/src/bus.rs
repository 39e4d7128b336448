//! The region's stream of facts on the bus.
//!
//! A connection is used for one watch and thrown away with it: whatever ends the one ends the
//! other, so no watch outlives a reconnection and stays silent. A watch begins with the last
//! record of every subject and is given up when the connection breaks, when a message is left
//! out, when heartbeats stay away, or when the stream has more than the watch has seen.

use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, ConnectOptions, jetstream};
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::Sources;
use crate::backoff::Backoff;
use crate::event::Event;
use crate::shared::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const GREATEST_PAUSE: Duration = Duration::from_secs(5);
/// For each question to the bus.
const DEADLINE: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Between comparisons with the stream.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
const BATCH: usize = 500;

/// Why a watch ended.
#[derive(Debug)]
enum End {
    /// The bus is not there or answers with an error.
    Unreachable(String),
    /// The bus is there but did not say what it had to say.
    Silent(String),
}

/// Follow the bus for ever.
pub(crate) async fn follow(sources: &Sources, shared: &Shared, events: &mpsc::Sender<Event>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, GREATEST_PAUSE);
    let mut told = String::new();
    loop {
        let (gone, disconnected) = watch::channel(false);
        let end = match connect(sources, gone).await {
            Ok(client) => {
                shared.status.bus_connected.store(true, Relaxed);
                backoff.reset();
                watch_once(&client, sources, shared, events, disconnected).await
            }
            Err(end) => end,
        };
        let was_synced = shared.status.bus_synced.swap(false, Relaxed);
        shared.status.bus_connected.store(false, Relaxed);
        let why = match end {
            End::Unreachable(why) => why,
            End::Silent(why) => {
                Shared::count(&shared.status.bus_silences);
                why
            }
        };
        // A bus that stays away is told of once.
        if was_synced || why != told {
            log::warn!("not following the bus: {why}");
            told = why;
        }
        sleep(backoff.pause()).await;
    }
}

async fn connect(sources: &Sources, gone: watch::Sender<bool>) -> Result<Client, End> {
    let seed = tokio::fs::read_to_string(&sources.bus.seed_file).await;
    let seed = seed.map_err(|error| {
        End::Unreachable(format!("{}: {error}", sources.bus.seed_file.display()))
    })?;
    let options = ConnectOptions::with_nkey(seed.trim().to_owned())
        .name(sources.component)
        .connection_timeout(DEADLINE)
        .request_timeout(Some(DEADLINE))
        .ping_interval(HEARTBEAT)
        .max_reconnects(1)
        .event_callback(move |event| {
            if matches!(
                event,
                async_nats::Event::Disconnected | async_nats::Event::Closed
            ) {
                gone.send_replace(true);
            }
            std::future::ready(())
        });
    within("connect", options.connect(&sources.bus.servers[..])).await
}

async fn watch_once(
    client: &Client,
    sources: &Sources,
    shared: &Shared,
    events: &mpsc::Sender<Event>,
    mut disconnected: watch::Receiver<bool>,
) -> End {
    let watching = async {
        let mut watch = Watching::begin(client, &sources.region).await?;
        Shared::count(&shared.status.bus_watches);
        watch.run(shared, events).await
    };
    tokio::select! {
        result = watching => match result {
            Ok(never) => match never {},
            Err(end) => end,
        },
        _ = disconnected.wait_for(|gone| *gone) => {
            End::Unreachable("the connection broke".to_owned())
        }
    }
}

/// One watch of the stream.
struct Watching {
    stream: Stream,
    messages: Messages,
    /// The stream's sequence up to which everything was seen.
    seen: u64,
    /// The stream's last sequence when the watch was made.
    synced_at: u64,
    /// Messages of this watch so far, as the bus numbers them.
    received: u64,
}

enum Never {}

impl Watching {
    async fn begin(client: &Client, region: &str) -> Result<Self, End> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(DEADLINE);
        let name = format!("FACTS_{region}");
        let mut stream = within(&name, context.get_stream(&name)).await?;
        let consumer = within(
            "consumer",
            stream.create_consumer(Config {
                deliver_policy: DeliverPolicy::LastPerSubject,
                ack_policy: AckPolicy::None,
                filter_subject: "facts.>".to_owned(),
                inactive_threshold: Duration::from_mins(1),
                memory_storage: true,
                num_replicas: 1,
                ..Config::default()
            }),
        )
        .await?;
        let nothing_there = consumer.cached_info().num_pending == 0;
        let last = within(&name, stream.info()).await?.state.last_sequence;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(Duration::from_secs(30))
            .heartbeat(HEARTBEAT)
            .messages();
        let messages = within("messages", messages).await?;
        let seen = if nothing_there { last } else { 0 };
        Ok(Watching {
            stream,
            messages,
            seen,
            synced_at: last,
            received: 0,
        })
    }

    async fn run(&mut self, shared: &Shared, events: &mpsc::Sender<Event>) -> Result<Never, End> {
        let mut compare = interval(COMPARE_EVERY);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        compare.reset();
        let mut seen_at_last_compare = None;
        loop {
            self.note_synced(shared);
            tokio::select! {
                message = self.messages.next() => {
                    let event = self.take(message)?;
                    let sent = events.send(event).await;
                    sent.map_err(|_| End::Unreachable("the owner has ended".to_owned()))?;
                }
                _ = compare.tick() => {
                    self.compare(seen_at_last_compare).await?;
                    seen_at_last_compare = Some(self.seen);
                }
            }
        }
    }

    fn note_synced(&self, shared: &Shared) {
        if self.seen >= self.synced_at && !shared.status.bus_synced.swap(true, Relaxed) {
            log::info!("following the bus: {} facts", self.received);
        }
    }

    fn take<E: Display>(
        &mut self,
        message: Option<Result<jetstream::Message, E>>,
    ) -> Result<Event, End> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(End::Silent(error.to_string())),
            None => return Err(End::Unreachable("the watch was closed".to_owned())),
        };
        let info = message
            .info()
            .map_err(|error| End::Silent(error.to_string()))?;
        let (number, sequence) = (info.consumer_sequence, info.stream_sequence);
        let nothing_left = info.pending == 0;
        if number != self.received + 1 {
            return Err(End::Silent(format!(
                "message {} was left out",
                self.received + 1
            )));
        }
        self.received = number;
        self.seen = self.seen.max(sequence);
        if nothing_left {
            // The stream's very last message may have been deleted since.
            self.seen = self.seen.max(self.synced_at);
        }
        let (message, _) = message.split();
        Ok(Event::BusFact {
            subject: message.subject,
            payload: message.payload,
        })
    }

    /// Give up when the stream has more, and nothing has come since the last comparison.
    async fn compare(&mut self, seen_before: Option<u64>) -> Result<(), End> {
        let last = within("stream info", self.stream.info())
            .await?
            .state
            .last_sequence;
        if last > self.seen && seen_before == Some(self.seen) {
            let why = format!(
                "silent: the stream is at {last}, this watch at {}",
                self.seen
            );
            return Err(End::Silent(why));
        }
        Ok(())
    }
}

async fn within<T, E: Display>(
    what: &str,
    asked: impl IntoFuture<Output = Result<T, E>>,
) -> Result<T, End> {
    match timeout(DEADLINE, asked.into_future()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(End::Unreachable(format!("{what}: {error}"))),
        Err(_) => Err(End::Unreachable(format!("{what}: no answer"))),
    }
}

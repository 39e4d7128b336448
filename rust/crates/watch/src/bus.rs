//! The region's two streams on its bus: its own facts, and the mirror of other regions'.
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
use godwit_catalog::Book;
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
/// After a watch has everything, owners get so long to tell again what a bus may have lost.
const SETTLING: Duration = Duration::from_mins(10);

/// Between attempts to watch the mirror, which a region may not have.
const MIRROR_PAUSE: Duration = Duration::from_secs(2);

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
                Box::pin(watch_once(&client, sources, shared, events, disconnected)).await
            }
            Err(end) => end,
        };
        let was_synced = shared.status.bus_synced.swap(false, Relaxed);
        shared.status.mirror_synced.store(false, Relaxed);
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
    tokio::select! {
        end = watch_book(client, Book::Facts, sources, shared, events) => end,
        () = watch_mirror(client, sources, shared, events) => {
            End::Unreachable("the mirror's watch has ended".to_owned())
        }
        _ = disconnected.wait_for(|gone| *gone) => {
            End::Unreachable("the connection broke".to_owned())
        }
    }
}

/// Watch one stream until something is wrong.
async fn watch_book(
    client: &Client,
    book: Book,
    sources: &Sources,
    shared: &Shared,
    events: &mpsc::Sender<Event>,
) -> End {
    let watching = async {
        let mut watch = Watching::begin(client, book, &sources.region).await?;
        Shared::count(&shared.status.bus_watches);
        tell(events, Event::BusBegins(book)).await?;
        watch.run(shared, events).await
    };
    match watching.await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// Watch the mirror for as long as the connection lasts; a region's own facts do not wait for it.
async fn watch_mirror(
    client: &Client,
    sources: &Sources,
    shared: &Shared,
    events: &mpsc::Sender<Event>,
) {
    loop {
        let end = watch_book(client, Book::Mirror, sources, shared, events).await;
        let was_synced = shared.status.mirror_synced.swap(false, Relaxed);
        match end {
            End::Unreachable(why) if was_synced => log::warn!("not following the mirror: {why}"),
            // A region without others has none.
            End::Unreachable(why) => log::debug!("no mirror to follow: {why}"),
            End::Silent(why) => {
                Shared::count(&shared.status.bus_silences);
                log::warn!("not following the mirror: {why}");
            }
        }
        sleep(MIRROR_PAUSE).await;
    }
}

/// One watch of a stream.
struct Watching {
    book: Book,
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
    async fn begin(client: &Client, book: Book, region: &str) -> Result<Self, End> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(DEADLINE);
        // All of a stream, so that its last sequence tells whether something was left out.
        let (name, subjects) = match book {
            Book::Facts => (format!("FACTS_{region}"), "facts.>"),
            Book::Mirror => ("MIRROR".to_owned(), "mirror.>"),
        };
        let mut stream = within(&name, context.get_stream(&name)).await?;
        let consumer = within(
            "consumer",
            stream.create_consumer(Config {
                deliver_policy: DeliverPolicy::LastPerSubject,
                ack_policy: AckPolicy::None,
                filter_subject: subjects.to_owned(),
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
            book,
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
        let settled = sleep(SETTLING);
        tokio::pin!(settled);
        let mut settling = true;
        loop {
            self.note_synced(shared);
            tokio::select! {
                message = self.messages.next() => {
                    let event = self.take(message)?;
                    tell(events, event).await?;
                }
                () = &mut settled, if settling && self.seen >= self.synced_at => {
                    settling = false;
                    tell(events, Event::BusSettled(self.book)).await?;
                }
                _ = compare.tick() => {
                    self.compare(seen_at_last_compare).await?;
                    seen_at_last_compare = Some(self.seen);
                }
            }
        }
    }

    fn note_synced(&self, shared: &Shared) {
        let (synced, what) = match self.book {
            Book::Facts => (&shared.status.bus_synced, "the bus"),
            Book::Mirror => (&shared.status.mirror_synced, "the mirror"),
        };
        if self.seen >= self.synced_at && !synced.swap(true, Relaxed) {
            log::info!("following {what}: {} facts", self.received);
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

async fn tell(events: &mpsc::Sender<Event>, event: Event) -> Result<(), End> {
    let sent = events.send(event).await;
    sent.map_err(|_| End::Unreachable("the owner has ended".to_owned()))
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

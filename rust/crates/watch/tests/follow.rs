//! The watch as edge and DNS use it, with an agent of a few lines and no bus.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use godwit_watch::{Sources, WakeError, Watch};
use godwit_wire::components::BusClient;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_mins(1);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("godwit-watch-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("a.sock")
    }

    fn start(&self) -> Watch {
        godwit_watch::start(Sources {
            component: "test",
            host_id: "own".to_owned(),
            region: "lcl".to_owned(),
            agent_socket: self.socket(),
            bus: BusClient {
                servers: vec!["nats://127.0.0.1:1".to_owned()],
                seed_file: self.0.join("none.seed"),
            },
            view_file: self.0.join("view.json"),
            flights: None,
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fact(id: &str, revision: u64, state: &str) -> String {
    json!({"type": "fact", "fact": {
        "kind": "machine", "owner": "own", "epoch": 1, "revision": revision, "org_id": "org",
        "network_id": "net", "network_number": 1, "app_id": "app", "app": "hello",
        "machine_id": id, "instance_id": "i", "name": "n", "host_id": "own", "region": "lcl",
        "state": state, "private_ip": "fdaa:0:1::2", "local_ipv4": "172.16.0.5"}})
    .to_string()
}

async fn accept(listener: &UnixListener, lines: &[String]) -> UnixStream {
    let accepted = timeout(PATIENCE, listener.accept())
        .await
        .expect("a connection in time");
    let (mut stream, _) = accepted.expect("a connection");
    say(&mut stream, lines).await;
    stream
}

async fn say(stream: &mut UnixStream, lines: &[String]) {
    for line in lines {
        stream
            .write_all(format!("{line}\n").as_bytes())
            .await
            .expect("a line written");
    }
}

fn synced() -> String {
    json!({"type": "synced"}).to_string()
}

fn bind(path: &Path) -> UnixListener {
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).expect("a socket")
}

async fn until(watch: &Watch, mut holds: impl FnMut(&Watch) -> bool) {
    let mut changes = watch.changes();
    let waiting = async {
        while !holds(watch) {
            let _ = timeout(Duration::from_millis(50), changes.changed()).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it holds in time");
}

fn state(watch: &Watch, id: &str) -> Option<String> {
    watch
        .view()
        .machine(id)
        .map(|machine| machine.state.to_string())
}

#[tokio::test]
async fn it_starts_at_once_and_takes_what_the_agent_says_whenever_it_comes() {
    let folder = Folder::new("late");
    let watch = folder.start();
    assert_eq!(watch.view().counts().machines, 0);
    let listener = bind(&folder.socket());
    let stream = accept(
        &listener,
        &[fact("m1", 1, "started"), fact("m2", 1, "started"), synced()],
    )
    .await;
    until(&watch, |watch| watch.view().counts().machines == 2).await;
    drop(stream);
    let _again = accept(&listener, &[fact("m2", 2, "stopped"), synced()]).await;
    until(&watch, |watch| watch.view().counts().machines == 1).await;
    assert_eq!(state(&watch, "m2").as_deref(), Some("stopped"));
    watch.stop();
    let later = folder.start();
    assert_eq!(state(&later, "m2").as_deref(), Some("stopped"));
    later.stop();
}

#[tokio::test]
async fn who_was_woken_finds_the_fact_of_it() {
    let folder = Folder::new("wake");
    let listener = bind(&folder.socket());
    let watch = folder.start();
    let stream = accept(&listener, &[fact("m1", 1, "stopped"), synced()]).await;
    until(&watch, |watch| watch.report().agent_synced).await;
    let agent = tokio::spawn(async move {
        let mut stream = BufReader::new(stream);
        for revision in 2.. {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let asked: serde_json::Value = serde_json::from_str(&line).expect("a request");
            let woken = json!({"type": "woken", "id": asked["id"]}).to_string();
            let lines = [fact("m1", revision, &format!("started {revision}")), woken];
            say(stream.get_mut(), &lines).await;
        }
    });
    let machine: Arc<str> = "m1".into();
    for revision in 2..200 {
        let woken = timeout(PATIENCE, watch.waker().wake(&machine)).await;
        assert_eq!(woken, Ok(Ok(())));
        assert_eq!(state(&watch, "m1"), Some(format!("started {revision}")));
    }
    watch.stop();
    timeout(PATIENCE, agent)
        .await
        .expect("the agent is left alone")
        .expect("no panic");
}

#[tokio::test]
async fn a_line_that_is_too_long_keeps_no_other_from_being_read() {
    let folder = Folder::new("long");
    let listener = bind(&folder.socket());
    let watch = folder.start();
    let long = fact("m2", 1, &"x".repeat(3 << 20));
    let lines = [
        fact("m1", 1, "started"),
        long,
        fact("m3", 1, "started"),
        synced(),
    ];
    // Its own task: the socket holds less than the long line.
    let agent = tokio::spawn(async move { accept(&listener, &lines).await });
    until(&watch, |watch| watch.report().agent_synced).await;
    assert_eq!(state(&watch, "m1").as_deref(), Some("started"));
    assert_eq!(state(&watch, "m2"), None);
    assert_eq!(state(&watch, "m3").as_deref(), Some("started"));
    assert_eq!(watch.report().skipped_unreadable, 1);
    watch.stop();
    drop(agent.await.expect("no panic"));
}

#[tokio::test]
async fn without_an_agent_nobody_is_woken_and_nobody_waits() {
    let folder = Folder::new("away");
    let watch = folder.start();
    let machine: Arc<str> = "m1".into();
    assert_eq!(watch.waker().wake(&machine).await, Err(WakeError::Away));
    let listener = bind(&folder.socket());
    let stream = accept(&listener, &[synced()]).await;
    until(&watch, |watch| watch.report().agent_synced).await;
    let waker = watch.waker();
    let asked = tokio::spawn(async move { waker.wake(&machine).await });
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    timeout(PATIENCE, stream.read_line(&mut line))
        .await
        .expect("in time")
        .expect("a wake");
    drop(stream);
    let answer = timeout(PATIENCE, asked)
        .await
        .expect("in time")
        .expect("no panic");
    assert_eq!(answer, Err(WakeError::Away));
    watch.stop();
}

//! A podman in this process: its API on a Unix socket, with every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Serves,
    /// It takes connections and is silent.
    Hangs,
    /// It answers with something else.
    Garbage,
    /// It answers with half of what it has.
    Half,
    /// It answers that something is wrong.
    Fails,
    /// It runs without root.
    Rootless,
}

#[derive(Debug)]
struct Held {
    behaviour: Behaviour,
    /// The containers, as described.
    containers: BTreeMap<String, Value>,
    /// Those whose end the list does not know yet.
    stale: BTreeSet<String>,
    /// Those that cannot be described.
    broken: BTreeSet<String>,
    /// How often the list of containers names a Pod that the list of Pods does not have.
    torn: usize,
    /// Why there are no events, and whether that is only said in the answer.
    eventless: Option<(String, bool)>,
    /// What was asked for.
    asked: Vec<String>,
}

/// It ends with this value.
pub(super) struct Podman {
    held: Arc<Mutex<Held>>,
    events: broadcast::Sender<String>,
    _task: JoinSet<()>,
}

impl Podman {
    pub(super) fn start(socket: &Path, behaviour: Behaviour) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let held = Held {
            behaviour,
            containers: BTreeMap::new(),
            stale: BTreeSet::new(),
            broken: BTreeSet::new(),
            torn: 0,
            eventless: None,
            asked: Vec::new(),
        };
        let held = Arc::new(Mutex::new(held));
        let (events, _) = broadcast::channel(1024);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, Arc::clone(&held), events.clone()));
        Self { held, events, _task: task }
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        self.held.lock().unwrap().behaviour = behaviour;
    }

    /// Runs a container, or changes it, without an event.
    pub(super) fn set(&self, name: &str, state: &str, health: &str, address: &str) {
        let container = json!({
            "Id": format!("id-{name}"),
            "Name": name,
            "State": {"Status": state, "Health": {"Status": health}},
            "Config": {"Labels": {"app": name}},
            "NetworkSettings": {"Networks": {"podman": {"IPAddress": address}}},
            "HostConfig": {"NetworkMode": "bridge"},
        });
        self.held.lock().unwrap().containers.insert(format!("id-{name}"), container);
    }

    /// Makes a container one that cannot be described, or one that can.
    pub(super) fn break_one(&self, name: &str, is_broken: bool) {
        let mut held = self.held.lock().unwrap();
        let id = format!("id-{name}");
        if is_broken {
            held.broken.insert(id)
        } else {
            held.broken.remove(&id)
        };
    }

    /// Makes lists that do not fit each other, a number of times.
    pub(super) fn tear(&self, times: usize) {
        self.held.lock().unwrap().torn = times;
    }

    /// Has no events, or has them again.
    pub(super) fn without_events(&self, why: Option<(&str, bool)>) {
        let why = why.map(|(why, is_late)| (why.to_owned(), is_late));
        self.held.lock().unwrap().eventless = why;
    }

    /// Ends a container in such a way that only its description says so.
    pub(super) fn end_unnoticed(&self, name: &str) {
        self.set(name, "exited", "", "");
        self.held.lock().unwrap().stale.insert(format!("id-{name}"));
    }

    /// Removes a container, without an event.
    pub(super) fn unset(&self, name: &str) {
        self.held.lock().unwrap().containers.remove(&format!("id-{name}"));
    }

    /// Says that something has happened to a container.
    pub(super) fn say(&self, action: &str, name: &str) {
        let id = format!("id-{name}");
        self.say_line(&json!({"Type": "container", "Action": action, "Actor": {"ID": id}}));
    }

    pub(super) fn say_line(&self, event: &Value) {
        // Nobody may listen.
        let _ = self.events.send(format!("{event}\n"));
    }

    /// Returns what was asked for since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.held.lock().unwrap().asked)
    }
}

async fn serve(listener: UnixListener, held: Arc<Mutex<Held>>, events: broadcast::Sender<String>) {
    let mut tasks = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (held, events) = (Arc::clone(&held), events.subscribe());
        tasks.spawn(async move {
            // A client may go away at any time.
            let _ = answer(stream, held, events).await;
        });
    }
}

async fn answer(
    mut stream: UnixStream,
    held: Arc<Mutex<Held>>,
    mut events: broadcast::Receiver<String>,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let path = path.strip_prefix("/v4.0.0/libpod").expect("the version is asked for").to_owned();
    let (behaviour, eventless, body, is_broken) = {
        let mut held = held.lock().unwrap();
        held.asked.push(path.clone());
        let is_broken = held.broken.iter().any(|id| path == format!("/containers/{id}/json"));
        let mut body = body(&held, &path);
        if path.starts_with("/containers/json") && held.torn > 0 {
            held.torn -= 1;
            if let Some(Value::Array(all)) = &mut body {
                all.iter_mut().for_each(|it| it["Pod"] = json!("unknown"));
            }
        }
        (held.behaviour, held.eventless.clone(), body, is_broken)
    };
    let fail = |message: &str| {
        let body = json!({"cause": message, "message": message, "response": 500}).to_string();
        let head = "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    if is_broken {
        return writer.write_all(fail("layer not known").as_bytes()).await;
    }
    match behaviour {
        Behaviour::Hangs => std::future::pending().await,
        Behaviour::Garbage => return writer.write_all(b"220 mail.example.org ESMTP\r\n").await,
        Behaviour::Fails => {
            return writer.write_all(fail("the database is locked").as_bytes()).await;
        }
        Behaviour::Serves | Behaviour::Half | Behaviour::Rootless => {}
    }
    if path.starts_with("/events") {
        if let Some((why, is_late)) = eventless {
            let line = json!({"cause": why, "message": why, "response": 500});
            let late = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{line}\n");
            let text = if is_late { late } else { fail(&why) };
            return writer.write_all(text.as_bytes()).await;
        }
        writer.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
        while let Ok(event) = events.recv().await {
            writer.write_all(event.as_bytes()).await?;
        }
        return Ok(());
    }
    let Some(body) = body else {
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return writer.write_all(head.as_bytes()).await;
    };
    let body = body.to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let is_half = behaviour == Behaviour::Half && path.starts_with("/containers/json");
    let length = if is_half { body.len() / 2 } else { body.len() };
    writer.write_all(format!("{head}{}", &body[..length]).as_bytes()).await
}

fn body(held: &Held, path: &str) -> Option<Value> {
    let running = json!("running");
    let listed = |it: &Value| {
        let is_stale = it["Id"].as_str().is_some_and(|id| held.stale.contains(id));
        json!({
            "Id": it["Id"],
            "Names": [it["Name"]],
            "Labels": it["Config"]["Labels"],
            "State": if is_stale { &running } else { &it["State"]["Status"] },
            "Pod": "",
            "ExitCode": 0,
            "StartedAt": 1,
        })
    };
    match path {
        "/info" => {
            let rootless = held.behaviour == Behaviour::Rootless;
            Some(json!({"host": {"security": {"rootless": rootless}}}))
        }
        "/pods/json" => Some(json!([])),
        "/containers/json?all=true" => Some(held.containers.values().map(listed).collect()),
        _ => {
            let id = path.strip_prefix("/containers/")?.strip_suffix("/json")?;
            held.containers.get(id).cloned()
        }
    }
}

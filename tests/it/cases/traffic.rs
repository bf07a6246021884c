//! Sends the packets of a row, and compares their outcomes with the row.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rulec_testkit::{
    Answer, Connection, Failure, Family, Namespace, Options, Protocol, Refusals, Server, address,
    ask, flow_with, patience, ping_is_refused, sctp_supported,
};

use super::oracle::{self, Question};
use super::packets::{Backend, Client, Expected, Line, SeenSource, To, Whom, parse};
use super::place::{A_MOMENT, LONG_PORT, Place, client_of};
use super::trace::{self, Traced};

/// The time limit of an answer; only an overloaded machine takes that long.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a flow may take to move: stale conntrack entries are deleted in parallel to commits.
const MOVED: Duration = Duration::from_secs(10);

/// The number of answers after which each of three endpoints is among them, except once in 10^21
/// times.
const MAX_ANSWERS: usize = 120;

/// The number of further requests after all endpoints have answered.
const MORE: usize = 8;

/// The number of requests of a client that sticks to an endpoint.
const STICKS: usize = 4;

/// Flows and endpoints that later steps refer to.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The endpoints that clients stick to, by the row's letters.
    stuck: BTreeMap<String, String>,
    /// UDP flows by their source ports, and TCP connections.
    datagrams: BTreeMap<String, u16>,
    connections: BTreeMap<String, Connection>,
}

/// Source ports of flows that are looked up later; no other flows use them.
static NEXT_PORT: AtomicU16 = AtomicU16::new(33_000);

fn next_port() -> u16 {
    NEXT_PORT.fetch_add(1, Ordering::Relaxed)
}

/// A client with its namespace and source address.
#[derive(Clone, Copy, Debug)]
struct Sender<'p> {
    namespace: &'p Namespace,
    ip: IpAddr,
}

impl Sender<'_> {
    fn family(self) -> Family {
        if self.ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn options(self, port: u16, timeout: Duration) -> Options {
        Options { source: Some(SocketAddr::new(self.ip, port)), timeout }
    }
}

/// The description of a failed check.
type Verdict = Result<(), String>;

/// Sends all packets of a text.
///
/// # Panics
///
/// When an outcome differs from the text; the message contains all of them.
pub(super) fn check(place: &Place, memory: &mut Memory, text: &str) {
    let lines = parse(text);
    let questions = questions(place, memory, &lines);
    let lines: Vec<Line> = lines.into_iter().filter(can_be_sent).collect();
    let mut wrong = Vec::new();
    // Processes that receive packets to the node itself if these are not translated.
    let _listeners = listeners(place, &lines);
    let (in_order, at_once): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| line.flow.is_some() || is_sticky(line));
    if in_order.iter().any(|line| line.flow.is_some()) {
        // A flow that is wrongly deleted would be deleted by then.
        thread::sleep(A_MOMENT);
    }
    for line in in_order {
        let verdict = match &line.flow {
            Some(flow) => long(place, memory, flow, line),
            None => stick(place, memory, line),
        };
        wrong.extend(verdict.err().map(|what| format!("{}\n    {what}", line.text)));
    }
    // In parallel, because most checks only wait.
    thread::scope(|scope| {
        let mut checks = Vec::new();
        for line in at_once {
            for client in &line.clients {
                let sender = sender(place, client, line.to);
                let check = scope.spawn(move || one(place, sender, line));
                checks.push((line, client, check));
            }
        }
        for (line, client, check) in checks {
            let verdict = check.join().unwrap_or_else(|_| Err("the check panicked".to_owned()));
            if let Err(what) = verdict {
                wrong.push(format!("{}\n    {}: {what}", line.text, client.name));
            }
        }
    });
    assert!(wrong.is_empty(), "packets:\n  {}", wrong.join("\n  "));
    oracle::check(place, questions);
}

/// Traces a packet of each client to each frontend of a text.
///
/// # Panics
///
/// When a packet goes another way than `rulec explain` says.
pub(super) fn trace(place: &Place, text: &str) {
    let lines: Vec<Line> = parse(text).into_iter().filter(can_be_sent).collect();
    let _listeners = listeners(place, &lines);
    let mut traced: BTreeMap<(String, String), Traced<'_>> = BTreeMap::new();
    // Only the first packet of a flow is seen, and only the first address of a client is needed.
    for line in lines.iter().filter(|line| line.flow.is_none()) {
        for client in line.clients.iter().rev() {
            let sender = sender(place, client, line.to);
            let question = Question::new(sender.ip, line.to, &line.outcome);
            let key = (client.name.clone(), question.frontend());
            let options = sender.options(0, trace::PATIENCE);
            traced.insert(key, Traced { namespace: sender.namespace, options, question });
        }
    }
    trace::check(place, traced.into_values().collect());
}

/// Returns the questions for lines. A flow that exists already is left out; of many addresses of
/// one client, the first is taken.
fn questions(place: &Place, memory: &Memory, lines: &[Line]) -> Vec<Question> {
    let is_new =
        |flow: &str| !memory.datagrams.contains_key(flow) && !memory.connections.contains_key(flow);
    let mut questions = Vec::new();
    for line in lines.iter().filter(|line| line.flow.as_deref().is_none_or(is_new)) {
        let clients: BTreeMap<&str, &Client> =
            line.clients.iter().rev().map(|client| (client.name.as_str(), client)).collect();
        questions.extend(clients.values().map(|client| {
            let sender = sender(place, client, line.to);
            Question::new(sender.ip, line.to, &line.outcome)
        }));
    }
    questions
}

/// Sends the packets of a text continuously during a change: each must have an outcome that its
/// line allows.
///
/// # Panics
///
/// At the first packet that has another outcome.
pub(super) fn throughout(place: &mut Place, text: &str, change: impl FnOnce(&mut Place)) {
    let lines = parse(text);
    let world = Arc::clone(&place.world);
    let done = AtomicBool::new(false);
    let ask_on = |line: &Line, client: &Client| -> Verdict {
        let (namespace, own) = client_of(&world, line.to.family(), &client.name);
        let sender = Sender { namespace, ip: client.ip.unwrap_or(own) };
        let mut flows = 0_usize;
        while !done.load(Ordering::Relaxed) || flows == 0 {
            flows += 1;
            let (protocol, at) = port(line.to);
            match (ask(namespace, protocol, at, sender.options(0, PATIENCE)), &line.outcome) {
                (Ok(answer), outcome) => drop(is_among(&answer, expected(outcome), sender)?),
                (Err(Failure::Refused), Expected::ReachOrRefused(_)) => {}
                (Err(failure), _) => return Err(format!("flow {flows}: {failure:?}")),
            }
        }
        Ok(())
    };
    let wrong: Vec<String> = thread::scope(|scope| {
        let ask_on = &ask_on;
        let clients = lines.iter().flat_map(|line| line.clients.iter().map(move |it| (line, it)));
        let workers: Vec<_> = clients
            .map(|(line, client)| (line, scope.spawn(move || ask_on(line, client))))
            .collect();
        // Even if the change panics, the workers must end.
        let stop = Stop(&done);
        change(place);
        drop(stop);
        let wrong = |(line, worker): (&Line, thread::ScopedJoinHandle<'_, Verdict>)| {
            let verdict = worker.join().expect("a check does not panic");
            verdict.err().map(|what| format!("{}\n    {what}", line.text))
        };
        workers.into_iter().filter_map(wrong).collect()
    });
    assert!(wrong.is_empty(), "packets sent throughout:\n  {}", wrong.join("\n  "));
    let clients = lines.iter().flat_map(|line| line.clients.iter().map(move |it| (line, it)));
    let question = |(line, client): (&Line, &Client)| {
        let (_, own) = client_of(&world, line.to.family(), &client.name);
        Question::throughout(client.ip.unwrap_or(own), line.to, &line.outcome)
    };
    oracle::check(place, clients.map(question).collect());
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_sticky(line: &Line) -> bool {
    matches!(line.outcome, Expected::Stick { .. })
}

/// Returns whether this kernel supports the protocol of a line.
#[expect(clippy::print_stderr, reason = "what is skipped has to be said")]
fn can_be_sent(line: &Line) -> bool {
    let can = !matches!(line.to, To::Port(Protocol::Sctp, _)) || sctp_supported();
    if !can {
        eprintln!("skipped: this kernel has no SCTP: {}", line.text);
    }
    can
}

/// Starts servers at those addresses of the node where packets are to arrive untouched.
fn listeners(place: &Place, lines: &[Line]) -> Vec<Server> {
    let at: BTreeSet<(Protocol, SocketAddr)> = lines
        .iter()
        .filter(|line| matches!(line.outcome, Expected::Untouched))
        .filter_map(|line| match line.to {
            To::Port(protocol, to) if place.is_of_node(to.ip()) => Some((protocol, to)),
            To::Port(..) | To::Ping(_) => None,
        })
        .collect();
    at.into_iter().map(|at| Server::start_at(&place.world.node, "na", &[at])).collect()
}

fn sender<'p>(place: &'p Place, client: &Client, to: To) -> Sender<'p> {
    let (namespace, own) = client_of(&place.world, to.family(), &client.name);
    if let Some(ip) = client.ip {
        place.add_address(namespace, ip);
        return Sender { namespace, ip };
    }
    match to {
        // Packets from elsewhere cannot reach a loopback address.
        To::Port(_, to) if to.ip().is_loopback() => Sender { namespace, ip: to.ip() },
        To::Port(..) | To::Ping(_) => Sender { namespace, ip: own },
    }
}

fn port(to: To) -> (Protocol, SocketAddr) {
    match to {
        To::Port(protocol, at) => (protocol, at),
        To::Ping(ip) => panic!("a ping to {ip} reaches no endpoint"),
    }
}

fn answer(sender: Sender<'_>, to: To, from_port: u16) -> Result<Answer, String> {
    let (protocol, at) = port(to);
    ask(sender.namespace, protocol, at, sender.options(from_port, PATIENCE))
        .map_err(|failure| format!("{failure:?}"))
}

fn expected(outcome: &Expected) -> &[Backend] {
    match outcome {
        Expected::Reach(backends)
        | Expected::ReachOrRefused(backends)
        | Expected::Stick { among: backends, .. } => backends,
        Expected::Refused | Expected::Dropped | Expected::Untouched => &[],
    }
}

/// Returns which of these endpoints has answered, if it saw the expected source address.
fn is_among(answer: &Answer, backends: &[Backend], sender: Sender<'_>) -> Result<usize, String> {
    let is_it = |it: &Backend| it.name == answer.name && it.port == answer.port;
    let index = backends.iter().position(is_it).ok_or_else(|| format!("{answer:?} came"))?;
    let source = match backends[index].source {
        SeenSource::Kept => sender.ip,
        SeenSource::Masqueraded => sender.family().of(address::NODE),
    };
    if answer.source == source { Ok(index) } else { Err(format!("the source: {answer:?}")) }
}

/// Checks one client of a line.
fn one(place: &Place, sender: Sender<'_>, line: &Line) -> Verdict {
    match &line.outcome {
        Expected::Reach(backends) => reaches(sender, line.to, backends),
        Expected::Refused => is_refused(sender, line.to),
        Expected::Dropped => {
            let port = next_port();
            is_silent(sender, line.to, port)?;
            if came(place, sender, line.to, port) {
                return Err("it has left the node".to_owned());
            }
            Ok(())
        }
        Expected::Untouched => is_untouched(place, sender, line.to),
        Expected::ReachOrRefused(_) => Err("only while something changes".to_owned()),
        Expected::Stick { .. } => unreachable!("it is checked in order"),
    }
}

/// Sends requests until each of the endpoints has answered, and some more; no other may answer.
fn reaches(sender: Sender<'_>, to: To, backends: &[Backend]) -> Verdict {
    let mut missing: BTreeSet<usize> = (0..backends.len()).collect();
    let mut more = MORE;
    for _ in 0..MAX_ANSWERS + MORE {
        let answer = answer(sender, to, 0)?;
        missing.remove(&is_among(&answer, backends, sender)?);
        if missing.is_empty() {
            more -= 1;
        }
        if more == 0 {
            return Ok(());
        }
    }
    let names: Vec<&str> = missing.into_iter().map(|idx| backends[idx].name.as_str()).collect();
    Err(format!("{names:?} never answered"))
}

fn is_refused(sender: Sender<'_>, to: To) -> Verdict {
    let To::Port(protocol, at) = to else {
        let To::Ping(ip) = to else { unreachable!("there are two variants") };
        return if ping_is_refused(sender.namespace, ip, PATIENCE) {
            Ok(())
        } else {
            Err("no port unreachable came".to_owned())
        };
    };
    let port = next_port();
    let refusals = Refusals::listen(sender.namespace, at.ip());
    match ask(sender.namespace, protocol, at, sender.options(port, PATIENCE)) {
        Err(Failure::Refused) => {}
        other => return Err(format!("{other:?}")),
    }
    // A TCP reset also refuses the connection, but is not what the row means.
    if refusals.came(port, at, A_MOMENT) {
        Ok(())
    } else {
        Err("refused, but not by port unreachable".to_owned())
    }
}

fn is_silent(sender: Sender<'_>, to: To, from_port: u16) -> Verdict {
    let (protocol, at) = port(to);
    match ask(sender.namespace, protocol, at, sender.options(from_port, A_MOMENT)) {
        // On a busy machine the gateway may not answer neighbour discovery in time; the sender's
        // own kernel then reports it as unreachable, which our rules have no part in.
        Err(Failure::TimedOut | Failure::Unreachable) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn came(place: &Place, sender: Sender<'_>, to: To, from_port: u16) -> bool {
    let (protocol, at) = port(to);
    place.world.came_to_gateway(protocol, SocketAddr::new(sender.ip, from_port), at)
}

fn is_untouched(place: &Place, sender: Sender<'_>, to: To) -> Verdict {
    let (_, at) = port(to);
    if place.is_of_node(at.ip()) {
        let node = Backend { name: "na".to_owned(), port: at.port(), source: SeenSource::Kept };
        return reaches(sender, to, &[node]);
    }
    let deadline = Instant::now() + patience(PATIENCE);
    loop {
        let port = next_port();
        is_silent(sender, to, port)?;
        if came(place, sender, to, port) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err("it has not come to the gateway".to_owned());
        }
    }
}

/// Sends the requests of clients that stick to endpoints, all clients in parallel.
fn stick(place: &Place, memory: &mut Memory, line: &Line) -> Verdict {
    let Expected::Stick { among, whom } = &line.outcome else { unreachable!("it is one") };
    let found: Vec<Result<String, String>> = thread::scope(|scope| {
        let asking: Vec<_> = line
            .clients
            .iter()
            .map(|client| scope.spawn(|| sticks_to(sender(place, client, line.to), line.to, among)))
            .collect();
        let panicked = |_| Err("the check panicked".to_owned());
        asking.into_iter().map(|it| it.join().unwrap_or_else(panicked)).collect()
    });
    let mut all = BTreeSet::new();
    for found in found {
        let found = found?;
        if let Whom::Named(letter) = whom {
            let first = memory.stuck.entry(letter.clone()).or_insert_with(|| found.clone());
            if *first != found {
                return Err(format!("{letter} is {first}, but {found} answers"));
            }
        }
        all.insert(found);
    }
    match whom {
        Whom::Each if all.len() < among.len() => Err(format!("only {all:?} were found")),
        Whom::Each | Whom::Named(_) => Ok(()),
    }
}

/// Returns the endpoint among these that a client reaches every time.
fn sticks_to(sender: Sender<'_>, to: To, among: &[Backend]) -> Result<String, String> {
    let mut found: Option<String> = None;
    for _ in 0..STICKS {
        let answer = answer(sender, to, 0)?;
        is_among(&answer, among, sender)?;
        let first = found.get_or_insert_with(|| answer.name.clone());
        if *first != answer.name {
            return Err(format!("{} has found {first}, then {}", sender.ip, answer.name));
        }
    }
    Ok(found.unwrap_or_default())
}

/// Sends another packet of a flow.
fn long(place: &Place, memory: &mut Memory, flow: &str, line: &Line) -> Verdict {
    let [client] = line.clients.as_slice() else { return Err("a flow has one client".to_owned()) };
    let sender = sender(place, client, line.to);
    let (protocol, at) = port(line.to);
    if protocol == Protocol::Tcp {
        let [backend] = expected(&line.outcome) else {
            return Err("a connection has one endpoint".to_owned());
        };
        assert_eq!(backend.port, LONG_PORT, "{}: where connections are kept open", line.text);
        if !memory.connections.contains_key(flow) {
            let opened = flow_with(sender.namespace, at, sender.options(0, PATIENCE));
            let opened = opened.map_err(|failure| format!("{failure:?}"))?;
            memory.connections.insert(flow.to_owned(), opened);
        }
        let Some(connection) = memory.connections.get_mut(flow) else { unreachable!("see above") };
        let answer = connection.exchange("hello").map_err(|failure| format!("{failure:?}"))?;
        let expected = format!("{} hello", backend.name);
        return if answer == expected { Ok(()) } else { Err(format!("{answer:?} came")) };
    }
    let port = *memory.datagrams.entry(flow.to_owned()).or_insert_with(next_port);
    let deadline = Instant::now() + patience(MOVED);
    loop {
        let verdict = datagram(place, sender, line, port);
        if verdict.is_ok() || Instant::now() > deadline {
            return verdict;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn datagram(place: &Place, sender: Sender<'_>, line: &Line, from_port: u16) -> Verdict {
    let (protocol, at) = port(line.to);
    match &line.outcome {
        Expected::Reach(backends) => {
            let options = sender.options(from_port, A_MOMENT);
            let answer = ask(sender.namespace, protocol, at, options);
            let answer = answer.map_err(|failure| format!("{failure:?}"))?;
            is_among(&answer, backends, sender).map(drop)
        }
        Expected::Untouched => {
            is_silent(sender, line.to, from_port)?;
            if came(place, sender, line.to, from_port) {
                Ok(())
            } else {
                Err("it has not come to the gateway".to_owned())
            }
        }
        // The flow was deleted, and this packet starts a new one.
        Expected::Refused => {
            let refusals = Refusals::listen(sender.namespace, at.ip());
            match ask(sender.namespace, protocol, at, sender.options(from_port, A_MOMENT)) {
                Err(Failure::Refused) if refusals.came(from_port, at, A_MOMENT) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
        Expected::ReachOrRefused(_) | Expected::Dropped | Expected::Stick { .. } => {
            Err("a flow is served, refused or untouched".to_owned())
        }
    }
}

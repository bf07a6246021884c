//! Proxies on the way to the server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rulec_apiserver::ApiServer;
use rulec_sources::{ApiOptions, ProxyVariables};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::objects::service;
use crate::world::{Following, World};

/// A name that the server's certificate has, but that no resolver knows.
const NAME: &str = "kubernetes.default.svc";

/// A proxy that connects to one server, whatever the requested target, and records the targets.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(lead(connection, server, Arc::clone(&noted)));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Speaks SOCKS 5 with clients that begin with its version, and HTTP with others.
async fn lead(
    mut client: TcpStream,
    server: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let first = client.read_u8().await.ok()?;
    if first == 5 {
        let methods = client.read_u8().await.ok()?;
        let mut offered = vec![0; methods.into()];
        client.read_exact(&mut offered).await.ok()?;
        let mut user = String::new();
        let method = u8::from(offered.contains(&2)) * 2;
        client.write_all(&[5, method]).await.ok()?;
        if method == 2 {
            client.read_u8().await.ok()?;
            for end in [":", "@"] {
                let length = client.read_u8().await.ok()?;
                let mut part = vec![0; length.into()];
                client.read_exact(&mut part).await.ok()?;
                user += &String::from_utf8(part).ok()?;
                user += end;
            }
            client.write_all(&[1, 0]).await.ok()?;
        }
        let mut head = [0; 4];
        client.read_exact(&mut head).await.ok()?;
        let length = if head[3] == 3 { client.read_u8().await.ok()? } else { 4 };
        let mut host = vec![0; length.into()];
        client.read_exact(&mut host).await.ok()?;
        let host = match <[u8; 4]>::try_from(&host[..]) {
            Ok(address) => std::net::Ipv4Addr::from(address).to_string(),
            Err(_) => String::from_utf8(host).ok()?,
        };
        let port = client.read_u16().await.ok()?;
        asked.lock().unwrap().push(format!("SOCKS {user}{host}:{port}"));
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    } else {
        let mut head = vec![first];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let said = head.lines().filter(|line| {
            line.starts_with("CONNECT") || line.to_lowercase().starts_with("proxy-authorization")
        });
        asked.lock().unwrap().push(said.collect::<Vec<_>>().join("; "));
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
    }
    let mut server = TcpStream::connect(server).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

fn world() -> World<ApiServer> {
    let world = World::new();
    world.server.apply(&service("web", 80));
    world
}

fn variables(of: &[(&str, String)]) -> ProxyVariables {
    ProxyVariables::read(|name| {
        of.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    })
}

/// Returns options with the server's name and these variables.
fn named(world: &World, of: &[(&str, String)]) -> ApiOptions {
    let mut options = world.options();
    options.access.master = Some(format!("https://{NAME}:6443"));
    options.proxies = variables(of);
    options
}

#[tokio::test]
async fn the_proxy_from_the_environment_is_used() {
    let world = world();
    let proxy = Proxy::start(world.server.address()).await;
    for (url, expected) in [
        (format!("http://{}", proxy.address), format!("CONNECT {NAME}:6443 HTTP/1.1")),
        (proxy.address.to_string(), format!("CONNECT {NAME}:6443 HTTP/1.1")),
        (
            format!("http://user:pass@{}/", proxy.address),
            format!("CONNECT {NAME}:6443 HTTP/1.1; Proxy-Authorization: Basic dXNlcjpwYXNz"),
        ),
        (format!("socks5://{}", proxy.address), format!("SOCKS {NAME}:6443")),
        (format!("socks5://user:pass@{}", proxy.address), format!("SOCKS user:pass@{NAME}:6443")),
    ] {
        proxy.asked.lock().unwrap().clear();
        let others = ("NO_PROXY", "10.0.0.0/8,.example".to_owned());
        let mut following = Following::with(named(&world, &[("HTTPS_PROXY", url.clone()), others]));
        following.complete().await;
        assert_eq!(following.services(), ["web"], "{url}");
        let asked = proxy.asked();
        assert!(!asked.is_empty() && asked.iter().all(|it| *it == expected), "{url}: {asked:?}");
    }
}

#[tokio::test]
async fn a_server_excluded_by_no_proxy_is_reached_directly() {
    let world = world();
    // No process listens there.
    let dead = ("HTTPS_PROXY", "http://127.0.0.1:9".to_owned());
    let mut options = named(&world, &[dead, ("NO_PROXY", "localhost.test".to_owned())]);
    // Loopback addresses are never reached through a proxy.
    options.access.master = None;
    let mut following = Following::with(options);
    following.complete().await;
    assert_eq!(following.services(), ["web"]);

    // For an excepted name, the resolver reports that it is unknown, and not the proxy.
    let dead = ("HTTPS_PROXY", "http://127.0.0.1:9".to_owned());
    let mut following =
        Following::with(named(&world, &[dead.clone(), ("no_proxy", ".svc".to_owned())]));
    following.problems_until(|problems| problems.iter().any(|p| p.contains("dns error"))).await;
    // For another name, the proxy does.
    let mut following = Following::with(named(&world, &[dead]));
    let by_proxy = |problem: &String| problem.contains("the proxy 127.0.0.1:9 of HTTPS_PROXY");
    following.problems_until(|problems| problems.iter().any(by_proxy)).await;
}

#[tokio::test]
async fn the_proxy_url_of_a_kubeconfig_precedes_the_environment() {
    let world = world();
    let proxy = Proxy::start(world.server.address()).await;
    let text = std::fs::read_to_string(world.kubeconfig()).unwrap();
    for scheme in ["http", "socks5"] {
        let url = format!("\"proxy-url\": \"{scheme}://{}\", \"server\":", proxy.address);
        std::fs::write(world.kubeconfig(), text.replace("\"server\":", &url)).unwrap();
        let mut options = world.options();
        options.proxies = variables(&[
            ("HTTPS_PROXY", "http://127.0.0.1:9".to_owned()),
            ("NO_PROXY", "*".to_owned()),
        ]);
        proxy.asked.lock().unwrap().clear();
        let mut following = Following::with(options);
        following.complete().await;
        assert_eq!(following.services(), ["web"], "{scheme}");
        // The local host is reached through the proxy as well, since `proxy-url` says so.
        let server = world.server.address().to_string();
        assert!(proxy.asked().iter().all(|asked| asked.contains(&server)), "{:?}", proxy.asked());
        assert!(!proxy.asked().is_empty());
    }
}

#[tokio::test]
async fn an_invalid_proxy_is_reported_without_its_password() {
    let world = world();
    let refused = |problems: &[String], reason: &str| problems.iter().any(|p| p.contains(reason));
    let url = "ftp://user:sesame@proxy".to_owned();
    let mut following = Following::with(named(&world, &[("https_proxy", url.clone())]));
    let reason = "https_proxy: not a URL of http, https or socks5";
    following.problems_until(|problems| refused(problems, reason)).await;
    assert!(!following.problems().join("\n").contains("sesame"));

    let text = std::fs::read_to_string(world.kubeconfig()).unwrap();
    let field = format!("\"proxy-url\": \"{url}\", \"server\":");
    std::fs::write(world.kubeconfig(), text.replace("\"server\":", &field)).unwrap();
    let mut following = world.follow();
    let reason = "clusters[].cluster.proxy-url: not a URL of http, https or socks5";
    following.problems_until(|problems| refused(problems, reason)).await;
    assert!(!following.problems().join("\n").contains("sesame"));
}

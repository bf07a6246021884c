//! Asks the kubelet's HTTP server for its Pods, again and again.

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Collected, Limited};
use kube::client::Body;
use kube::{Client, Config};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::fault::Fault;
use super::{KubeletTiming, KubeletUrl};
use crate::pods::pod::Raw;
use crate::pods::{Event, Gone, say};

/// The longest list. The kubelet runs some hundred Pods.
const LONGEST_BODY: usize = 256 << 20;

/// Asks for the Pods until that fails.
///
/// # Errors
///
/// [`Gone`] if nobody listens any more; otherwise the reason of the failure is returned.
pub(super) async fn follow(
    url: &KubeletUrl,
    timing: &KubeletTiming,
    out: &mpsc::Sender<Event>,
) -> Result<Fault, Gone> {
    // Made anew after each failure: the files of the credentials may have been replaced.
    let client = match client(url) {
        Ok(client) => client,
        Err(fault) => return Ok(fault),
    };
    // The hash of the last list that was told. After a failure, an unchanged one is news as well.
    let mut told = None;
    loop {
        let next = Instant::now() + url.period;
        let body = match timeout(timing.answer, ask(&client)).await {
            Ok(Ok(body)) => body,
            Ok(Err(fault)) => return Ok(fault),
            Err(_) => return Ok(Fault::Silence(timing.answer)),
        };
        let hash = blake3::hash(&body);
        if told != Some(hash) {
            let pods = match pods(&body) {
                Ok(pods) => pods,
                Err(fault) => return Ok(fault),
            };
            say(out, Event::Listing).await?;
            for pod in pods {
                say(out, Event::Pod(Raw::Json(pod))).await?;
            }
            say(out, Event::Listed).await?;
            told = Some(hash);
        }
        sleep_until(next).await;
    }
}

fn client(url: &KubeletUrl) -> Result<Client, Fault> {
    let files =
        [&url.certificate_authority, &url.client_certificate, &url.client_key, &url.token_file];
    for path in files.into_iter().flatten() {
        // The client does not say which file it cannot read.
        File::open(path).map_err(|source| Fault::File { path: path.clone(), source })?;
    }
    let mut config = Config::new(url.url.clone());
    // A failure is known at once, and tried again here.
    config.default_retry = false;
    config.root_cert_file.clone_from(&url.certificate_authority);
    // Otherwise the client needs the authorities of the system, which a node may not have. They
    // would not be trusted anyway.
    config.root_cert = Some(Vec::new());
    let text = |path: &PathBuf| path.display().to_string();
    config.auth_info.client_certificate = url.client_certificate.as_ref().map(text);
    config.auth_info.client_key = url.client_key.as_ref().map(text);
    config.auth_info.token_file = url.token_file.as_ref().map(text);
    Client::try_from(config).map_err(|error| Fault::Request(Box::new(error)))
}

async fn ask(client: &Client) -> Result<Bytes, Fault> {
    let fault = |error| Fault::Request(Box::new(error));
    let request = Request::get("/pods").body(Body::empty()).map_err(Fault::Call)?;
    let answer = client.send(request).await.map_err(fault)?;
    if answer.status() != StatusCode::OK {
        return Err(Fault::Http(answer.status()));
    }
    let body = Limited::new(answer.into_body(), LONGEST_BODY).collect().await;
    body.map(Collected::to_bytes).map_err(Fault::Body)
}

/// A list of Pods. Each is decoded on its own, so that one that is wrong leaves the others alone.
#[derive(Deserialize)]
struct PodList {
    kind: String,
    items: Option<Vec<Box<RawValue>>>,
}

pub(super) fn pods(body: &[u8]) -> Result<Vec<Box<RawValue>>, Fault> {
    let list: PodList =
        serde_json::from_slice(body).map_err(|error| Fault::NotPods(Some(error)))?;
    if list.kind != "PodList" {
        return Err(Fault::NotPods(None));
    }
    Ok(list.items.unwrap_or_default())
}

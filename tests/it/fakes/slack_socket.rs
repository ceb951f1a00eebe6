//! The other end of Socket Mode: says hello, sends envelopes, counts acknowledgements, cuts connections.
//!
//! What is sent goes to the connection that stands, or waits for the next one. An envelope that is not acknowledged when its
//! connection ends is sent again over the next, as Slack does.
//!
//! ```ignore
//! let socket = SlackSocket::start("A0CREW");
//! slack.socket(&socket.url());
//! socket.send("interactive", json!({...}), false);  // its envelope's id
//! socket.cut();                                     // without a word
//! socket.leave("refresh_requested");                // and ends when the next one stands
//! ```

#![allow(dead_code)] // More than each test needs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

/// All that it knows.
#[derive(Default)]
struct State {
    /// Connections that have stood so far.
    connections: usize,
    /// The connection that stands, by its number.
    live: Option<usize>,
    /// Sent again until they are acknowledged.
    open: Vec<Envelope>,
    acknowledged: Vec<Value>,
    /// What was acknowledged and was not there to be.
    strays: Vec<Value>,
    next: usize,
    /// Connections up to this number end.
    cut: usize,
    /// What is said to a connection before it goes, with its number.
    leave: Vec<(usize, String)>,
    /// Pings that the other side answered.
    pongs: usize,
    pings: usize,
}

#[derive(Clone)]
struct Envelope {
    body: Value,
    /// The connection that it was sent over last.
    over: usize,
    /// It is sent so often although it is acknowledged.
    again: usize,
}

pub struct SlackSocket {
    address: String,
    app: String,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl SlackSocket {
    /// For the app of this id.
    pub fn start(app: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let (changed, news) = watch::channel(0);
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let (held, told, name) = (state.clone(), changed.clone(), app.to_owned());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        _ = &mut stopped => return,
                    };
                    tokio::spawn(serve(stream, held.clone(), told.clone(), news.clone(), name.clone()));
                }
            });
        });
        Self { address, app: app.to_owned(), state, changed, _stop: stop }
    }

    /// What `apps.connections.open` tells.
    pub fn url(&self) -> String {
        format!("ws://{}/link/?ticket=3f9c-canary-ticket&app_id={}", self.address, self.app)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Sends an envelope; its id.
    pub fn send(&self, kind: &str, payload: Value, takes_answer: bool) -> String {
        self.send_times(kind, payload, takes_answer, 1)
    }

    /// Sends the same envelope so often, acknowledged or not.
    pub fn send_times(&self, kind: &str, payload: Value, takes_answer: bool, times: usize) -> String {
        let id = {
            let mut state = self.state();
            state.next += 1;
            let id = format!("e-{}", state.next);
            let body = json!({
                "type": kind, "envelope_id": id, "payload": payload, "accepts_response_payload": takes_answer,
                "retry_attempt": 0, "retry_reason": "",
            });
            state.open.push(Envelope { body, over: 0, again: times - 1 });
            id
        };
        self.tell();
        id
    }

    /// Something that is no envelope.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    pub fn is_connected(&self) -> bool {
        self.state().live.is_some()
    }

    /// The acknowledgements of an envelope.
    pub fn acknowledged(&self, id: &str) -> Vec<Value> {
        self.state().acknowledged.iter().filter(|ack| ack["envelope_id"] == id).cloned().collect()
    }

    /// Acknowledgements of nothing that was sent.
    pub fn strays(&self) -> Vec<Value> {
        self.state().strays.clone()
    }

    /// Ends the connection that stands, without a word.
    pub fn cut(&self) {
        {
            let mut state = self.state();
            state.cut = state.connections;
        }
        self.tell();
    }

    /// Asks the connection that stands to be replaced.
    pub fn leave(&self, reason: &str) {
        {
            let mut state = self.state();
            if let Some(live) = state.live {
                state.leave.push((live, reason.to_owned()));
            }
        }
        self.tell();
    }
}

async fn serve(
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    told: watch::Sender<u64>,
    mut news: watch::Receiver<u64>,
    app: String,
) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let locked = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let own = {
        let mut state = locked();
        state.connections += 1;
        state.live = Some(state.connections);
        state.connections
    };
    let hello = json!({
        "type": "hello", "num_connections": 1, "connection_info": {"app_id": app},
        "debug_info": {"host": "applink-1", "build_number": 1, "approximate_connection_time": 18060},
    });
    if socket.send(Message::Text(hello.to_string().into())).await.is_err() {
        return;
    }
    told.send_modify(|n| *n += 1);
    loop {
        let (mut out, mut gone) = (Vec::new(), false);
        {
            let mut state = locked();
            if state.cut >= own {
                gone = true;
            } else if state.live == Some(own) {
                for envelope in state.open.iter_mut().filter(|envelope| envelope.over != own) {
                    envelope.over = own;
                    out.push(envelope.body.clone());
                }
            } else {
                // Another one stands.
                gone = true;
            }
            state.leave.retain(|(whom, reason)| {
                if *whom == own {
                    out.push(json!({"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-1"}}));
                }
                *whom != own
            });
        }
        if gone {
            let mut state = locked();
            if state.live == Some(own) {
                state.live = None;
            }
            return;
        }
        for body in out {
            if socket.send(Message::Text(body.to_string().into())).await.is_err() {
                break;
            }
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            said = socket.next() => match said {
                Some(Ok(Message::Text(text))) => {
                    let ack: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                    let mut state = locked();
                    let at = state.open.iter().position(|envelope| envelope.body["envelope_id"] == ack["envelope_id"]);
                    let known = state.acknowledged.iter().any(|before| before["envelope_id"] == ack["envelope_id"]);
                    match at {
                        Some(at) if state.open[at].again > 0 => {
                            state.open[at].again -= 1;
                            state.open[at].over = 0;
                            state.acknowledged.push(ack);
                        }
                        Some(at) => {
                            state.open.remove(at);
                            state.acknowledged.push(ack);
                        }
                        None if known => state.acknowledged.push(ack),
                        None => state.strays.push(ack),
                    }
                }
                Some(Ok(Message::Ping(_))) => locked().pings += 1,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    let mut state = locked();
                    if state.live == Some(own) {
                        state.live = None;
                    }
                    return;
                }
            },
        }
    }
}

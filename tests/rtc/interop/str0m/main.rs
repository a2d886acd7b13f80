//! A str0m peer, driven by the lines of JSON that ../peer.mjs describes.
//!
//! One thread has the connection. Another reads the commands and wakes it by a datagram, as it waits for those.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use sha2::{Digest, Sha256};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};

const HIGH_MARK: usize = 1024 * 1024;

type Outcome = Result<(), Box<dyn Error>>;

fn say(line: Value) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

fn text<'a>(command: &'a Value, name: &str) -> &'a str {
    command[name].as_str().unwrap_or("")
}

/// What is left to be sent of the words 0, 1, 2, ... of 32 bits.
struct Flood {
    left: usize,
    size: usize,
    word: u32,
}

struct Channel {
    label: String,
    open: bool,
    sink: bool,
    /// What the connection does not take yet.
    waiting: VecDeque<(bool, Vec<u8>)>,
    flood: Option<Flood>,
    seen: Sha256,
}

impl Channel {
    fn new(label: String) -> Self {
        let (waiting, seen) = (VecDeque::new(), Sha256::new());
        Channel { label, open: false, sink: false, waiting, flood: None, seen }
    }
}

struct Peer {
    rtc: Rtc,
    socket: UdpSocket,
    address: SocketAddr,
    waker: SocketAddr,
    channels: HashMap<ChannelId, Channel>,
    pending: Option<SdpPendingOffer>,
    described: bool,
}

impl Peer {
    fn describe(&mut self, kind: &str, sdp: String) {
        self.described = true;
        say(json!({"kind": "description", "type": kind, "sdp": sdp}));
    }

    fn named(&mut self, label: &str) -> Option<ChannelId> {
        self.channels.iter().find(|(_, channel)| channel.label == label).map(|(id, _)| *id)
    }

    fn handle(&mut self, command: &Value) -> Outcome {
        let label = text(command, "label").to_owned();
        match text(command, "kind") {
            "open" => {
                let protocol = text(command, "protocol").to_owned();
                let negotiated = command["id"].as_u64().map(|id| id as u16);
                let config = ChannelConfig { label: label.clone(), protocol, negotiated, ..Default::default() };
                let id = if self.described {
                    self.rtc.direct_api().create_data_channel(config)
                } else {
                    let mut changes = self.rtc.sdp_api();
                    let id = changes.add_channel_with_config(config);
                    let (offer, pending) = changes.apply().ok_or("nothing to offer")?;
                    self.pending = Some(pending);
                    self.describe("offer", offer.to_sdp_string());
                    id
                };
                self.channels.insert(id, Channel::new(label));
            }
            "description" if text(command, "type") == "offer" => {
                let answer = self.rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(text(command, "sdp"))?)?;
                self.describe("answer", answer.to_sdp_string());
            }
            "description" => {
                let answer = SdpAnswer::from_sdp_string(text(command, "sdp"))?;
                let pending = self.pending.take().ok_or("nothing was offered")?;
                self.rtc.sdp_api().accept_answer(pending, answer)?;
            }
            "close" => {
                if let Some(id) = self.named(&label) {
                    self.rtc.direct_api().close_data_channel(id);
                } // else the other side was first
            }
            "flood" => {
                let id = self.named(&label).ok_or("no such channel")?;
                let number = |name: &str| command[name].as_u64().unwrap_or(0) as usize;
                let flood = Flood { left: number("total"), size: number("size"), word: 0 };
                self.channels.get_mut(&id).ok_or("no such channel")?.flood = Some(flood);
            }
            "quit" => {
                self.rtc.close()?;
                self.poll()?;
                std::process::exit(0);
            }
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Connected => say(json!({"kind": "state", "state": "connected"})),
            Event::ChannelOpen(id, label) => {
                let protocol = self.rtc.channel(id).and_then(|channel| channel.config().map(|c| c.protocol.clone()));
                let channel = self.channels.entry(id).or_insert_with(|| Channel::new(label));
                channel.open = true;
                channel.sink = protocol.as_deref() == Some("sink");
                say(json!({"kind": "open", "label": channel.label, "protocol": protocol}));
            }
            Event::ChannelData(received) => {
                if let Some(channel) = self.channels.get_mut(&received.id) {
                    if !channel.sink {
                        channel.waiting.push_back((received.binary, received.data));
                    } else if received.binary {
                        channel.seen.update(&received.data);
                    } else {
                        let sum = channel.seen.clone().finalize();
                        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
                        channel.waiting.push_back((false, sum.into_bytes()));
                    }
                }
            }
            Event::ChannelClose(id) => {
                if let Some(channel) = self.channels.remove(&id) {
                    say(json!({"kind": "closed", "label": channel.label}));
                }
            }
            Event::Closed => {
                for (_, channel) in self.channels.drain() {
                    say(json!({"kind": "closed", "label": channel.label}));
                }
            }
            _ => {}
        }
    }

    /// Send what there is, and return when to look again.
    fn poll(&mut self) -> Result<Instant, Box<dyn Error>> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(packet) => {
                    // A full buffer of the socket is a loss like any other.
                    let _ = self.socket.send_to(&packet.contents, packet.destination);
                }
                Output::Event(event) => self.note(event),
            }
        }
    }

    /// Hand over what waits, as far as it is taken; return whether anything was.
    fn write(&mut self) -> Result<bool, Box<dyn Error>> {
        let mut wrote = false;
        for (id, state) in self.channels.iter_mut().filter(|(_, channel)| channel.open) {
            let Some(mut channel) = self.rtc.channel(*id) else { continue };
            while let Some((binary, data)) = state.waiting.front() {
                // One that closes takes nothing any more, which is no fault.
                match channel.write(*binary, data) {
                    Ok(false) => break,
                    Ok(true) => wrote = true,
                    Err(_) => {}
                }
                state.waiting.pop_front();
            }
            while let Some(flood) = state.flood.as_mut() {
                if flood.left == 0 {
                    say(json!({"kind": "flooded", "label": state.label}));
                    state.flood = None;
                    break;
                }
                if channel.buffered_amount() >= HIGH_MARK {
                    break;
                }
                let words = flood.word..flood.word + (flood.size / 4) as u32;
                let mut data: Vec<u8> = words.clone().flat_map(u32::to_le_bytes).collect();
                data.resize(flood.size, 0);
                if !channel.write(true, &data)? {
                    break;
                }
                wrote = true;
                flood.word = words.end;
                flood.left = flood.left.saturating_sub(flood.size);
            }
        }
        Ok(wrote)
    }

    fn run(mut self, commands: &Receiver<Value>) -> Outcome {
        let mut buffer = vec![0; 65536];
        loop {
            for command in commands.try_iter() {
                self.handle(&command)?;
            }
            let mut due = self.poll()?;
            while self.rtc.is_alive() && self.write()? {
                due = self.poll()?;
            }
            let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(wait.min(Duration::from_secs(1))))?;
            let input = match self.socket.recv_from(&mut buffer) {
                Ok((_, source)) if source == self.waker => continue,
                Ok((size, source)) => match Receive::new(Protocol::Udp, source, self.address, &buffer[..size]) {
                    Ok(packet) => Input::Receive(Instant::now(), packet),
                    Err(_) => continue,
                },
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    Input::Timeout(Instant::now())
                }
                Err(error) => return Err(error.into()),
            };
            self.rtc.handle_input(input)?;
        }
    }
}

fn main() -> Outcome {
    str0m::crypto::from_feature_flags().install_process_default();
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    let bell = UdpSocket::bind("127.0.0.1:0")?;
    let waker = bell.local_addr()?;
    let mut rtc = Rtc::builder().set_sctp_max_buffered_amount(HIGH_MARK).build(Instant::now());
    rtc.add_local_candidate(Candidate::host(address, "udp")?);

    let (sender, commands) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let command = line.map_err(|error| error.to_string()).and_then(|line| {
                serde_json::from_str::<Value>(&line).map_err(|error| error.to_string())
            });
            let told = command.map(|command| sender.send(command).is_ok());
            if told != Ok(true) || bell.send_to(&[0], address).is_err() {
                std::process::exit(1);
            }
        }
    });
    let channels = HashMap::new();
    let peer = Peer { rtc, socket, address, waker, channels, pending: None, described: false };
    let outcome = peer.run(&commands);
    if let Err(error) = &outcome {
        say(json!({"kind": "failed", "reason": error.to_string()}));
    }
    outcome
}

// A pion peer, driven by the lines of JSON that ../peer.mjs describes.
//
// Flags give it what other users of pion have set: a certificate with an RSA key, one cipher suite alone.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"hash"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"
)

const (
	lowMark  = 256 * 1024
	highMark = 1024 * 1024
)

type command struct {
	Kind     string
	Label    string
	Protocol string
	ID       *uint16
	Type     string
	SDP      string
	Total    int
	Size     int
}

type message map[string]any

type speaker struct {
	lock    sync.Mutex
	encoder *json.Encoder
}

func (s *speaker) say(line message) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.encoder.Encode(line) != nil {
		os.Exit(1)
	}
}

// check ends the process: what its user asked for cannot be done.
func (s *speaker) check(err error) {
	if err != nil {
		s.say(message{"kind": "failed", "reason": err.Error()})
		os.Exit(1)
	}
}

// channel is a data channel, and what has come if it is a "sink".
type channel struct {
	*webrtc.DataChannel
	seen hash.Hash
}

type peer struct {
	speaker
	*webrtc.PeerConnection
	lock     sync.Mutex
	channels map[string]*channel
}

func newPeer(rsaKey bool, aes256 bool) *peer {
	p := &peer{speaker: speaker{encoder: json.NewEncoder(os.Stdout)}, channels: map[string]*channel{}}
	p.encoder.SetEscapeHTML(false)

	settings := webrtc.SettingEngine{}
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetIPFilter(net.IP.IsLoopback)
	settings.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	if aes256 {
		settings.SetDTLSCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)
	}
	api := webrtc.NewAPI(webrtc.WithSettingEngine(settings))

	certificate, err := makeCertificate(rsaKey)
	p.check(err)
	p.PeerConnection, err = api.NewPeerConnection(webrtc.Configuration{Certificates: []webrtc.Certificate{*certificate}})
	p.check(err)
	p.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		p.say(message{"kind": "state", "state": state.String()})
	})
	p.OnDataChannel(p.watch)
	return p
}

func makeCertificate(rsaKey bool) (*webrtc.Certificate, error) {
	if rsaKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		return webrtc.GenerateCertificate(key)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return webrtc.GenerateCertificate(key)
}

func (p *peer) watch(made *webrtc.DataChannel) {
	c := &channel{DataChannel: made, seen: sha256.New()}
	p.lock.Lock()
	p.channels[c.Label()] = c
	p.lock.Unlock()

	opened := make(chan struct{})
	c.OnOpen(func() {
		p.say(message{"kind": "open", "label": c.Label(), "protocol": c.Protocol()})
		close(opened)
	})
	c.OnClose(func() { p.say(message{"kind": "closed", "label": c.Label()}) })
	c.OnMessage(func(received webrtc.DataChannelMessage) {
		<-opened // what was said is in order
		// A channel that closes meanwhile takes nothing any more, which is no fault.
		switch sink := c.Protocol() == "sink"; {
		case sink && received.IsString:
			_ = c.SendText(hex.EncodeToString(c.seen.Sum(nil)))
		case sink:
			c.seen.Write(received.Data)
		case received.IsString:
			_ = c.SendText(string(received.Data))
		default:
			_ = c.Send(received.Data)
		}
	})
}

// flood sends the words 0, 1, 2, ... of 32 bits in messages of a size, as a program does that keeps its buffer small.
func (p *peer) flood(c *channel, total, size int) {
	low := make(chan struct{}, 1)
	c.SetBufferedAmountLowThreshold(lowMark)
	c.OnBufferedAmountLow(func() {
		select {
		case low <- struct{}{}:
		default:
		}
	})
	word := uint32(0)
	for left := total; left > 0; left -= size {
		for c.BufferedAmount() >= highMark {
			select {
			case <-low:
			case <-time.After(time.Second):
				p.say(message{"kind": "waiting", "label": c.Label()})
			}
		}
		data := make([]byte, size)
		for at := 0; at+4 <= size; at += 4 {
			binary.LittleEndian.PutUint32(data[at:], word)
			word++
		}
		if c.Send(data) != nil {
			return // it was closed
		}
	}
	p.say(message{"kind": "flooded", "label": c.Label()})
}

func (p *peer) describe(description webrtc.SessionDescription, err error) {
	p.check(err)
	gathered := webrtc.GatheringCompletePromise(p.PeerConnection)
	p.check(p.SetLocalDescription(description))
	<-gathered
	local := p.LocalDescription()
	p.say(message{"kind": "description", "sdp": local.SDP, "type": local.Type.String()})
}

func (p *peer) handle(c command) {
	p.lock.Lock()
	known := p.channels[c.Label]
	p.lock.Unlock()
	switch c.Kind {
	case "open":
		negotiated := c.ID != nil
		made, err := p.CreateDataChannel(c.Label, &webrtc.DataChannelInit{
			Protocol: &c.Protocol, Negotiated: &negotiated, ID: c.ID,
		})
		p.check(err)
		p.watch(made)
		if p.LocalDescription() == nil {
			p.describe(p.CreateOffer(nil))
		}
	case "description":
		kind := webrtc.NewSDPType(c.Type)
		p.check(p.SetRemoteDescription(webrtc.SessionDescription{Type: kind, SDP: c.SDP}))
		if kind == webrtc.SDPTypeOffer {
			p.describe(p.CreateAnswer(nil))
		}
	case "close":
		p.check(known.Close())
	case "flood":
		go p.flood(known, c.Total, c.Size)
	case "quit":
		p.check(p.Close())
		os.Exit(0)
	}
}

func main() {
	rsaKey := flag.Bool("rsa", false, "show a certificate with an RSA key")
	aes256 := flag.Bool("aes256", false, "offer ECDHE-ECDSA with AES-256-GCM and no other cipher suite")
	flag.Parse()

	p := newPeer(*rsaKey, *aes256)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		p.check(json.Unmarshal(lines.Bytes(), &c))
		p.handle(c)
	}
}

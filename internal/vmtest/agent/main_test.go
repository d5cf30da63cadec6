package main

import (
	"encoding/json"
	"net"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/vmtest/wire"
)

// host is the other end of an agent under test.
type host struct {
	t   *testing.T
	in  *json.Decoder
	out *json.Encoder
}

func start(t *testing.T) host {
	ours, its := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newAgent(its, "/bin/sh").serve()
	}()
	ours.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() {
		ours.Close()
		<-ended
	})
	h := host{t, json.NewDecoder(ours), json.NewEncoder(ours)}
	if r := h.receive(); r.ID != 0 {
		t.Fatalf("its first word is %+v", r)
	}
	return h
}

func (h host) receive() wire.Reply {
	h.t.Helper()
	var r wire.Reply
	if err := h.in.Decode(&r); err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h host) send(r wire.Request) {
	h.t.Helper()
	if err := h.out.Encode(r); err != nil {
		h.t.Fatal(err)
	}
}

// end collects the output of one request up to its end.
func (h host) end() (string, wire.Reply) {
	h.t.Helper()
	var all string
	for {
		r := h.receive()
		all += string(r.Output)
		if r.Done {
			return all, r
		}
	}
}

func TestRun(t *testing.T) {
	h := start(t)
	for _, c := range []struct {
		command, output string
		status          int
	}{
		{"echo one; echo two >&2; exit 3", "one\ntwo\n", 3},
		{"true", "", 0},
		{"kill -TERM $$", "", 128 + int(syscall.SIGTERM)},
		{"no-such-command 2>/dev/null", "", 127},
	} {
		h.send(wire.Request{ID: 1, Op: wire.Run, Command: c.command})
		if out, r := h.end(); out != c.output || r.Status != c.status || r.Error != "" {
			t.Errorf("%q: %q and %+v, want %q and status %d", c.command, out, r, c.output, c.status)
		}
	}
}

// TestSignal: a signal reaches the command and what it started, while another
// command runs beside it.
func TestSignal(t *testing.T) {
	h := start(t)
	h.send(wire.Request{ID: 1, Op: wire.Run, Command: "echo ready; sleep 1000; echo not reached"})
	if r := h.receive(); string(r.Output) != "ready\n" {
		t.Fatalf("got %+v", r)
	}
	h.send(wire.Request{ID: 2, Op: wire.Run, Command: "echo beside"})
	if out, r := h.end(); out != "beside\n" || r.ID != 2 {
		t.Errorf("the second command: %q, %+v", out, r)
	}
	h.send(wire.Request{ID: 1, Op: wire.Signal, Number: int(syscall.SIGKILL)})
	if out, r := h.end(); out != "" || r.ID != 1 || r.Status != 128+int(syscall.SIGKILL) {
		t.Errorf("the killed command: %q, %+v", out, r)
	}
}

func TestUnknownRequest(t *testing.T) {
	h := start(t)
	h.send(wire.Request{ID: 1, Op: "dance"})
	if _, r := h.end(); r.ID != 1 || r.Error == "" {
		t.Errorf("got %+v, want an error", r)
	}
}

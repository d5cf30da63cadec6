package nbdload

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

func TestOptions(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true})
	for words, change := range map[string]func(*Options){
		"network":        func(o *Options) { o.Network = "udp" },
		"connections":    func(o *Options) { o.Connections = -1 },
		"depth":          func(o *Options) { o.Depth = 1 << 20 },
		"block size":     func(o *Options) { o.BlockSize = 1000 },
		"outstanding":    func(o *Options) { o.Connections, o.Depth, o.BlockSize = 64, 64, 1<<20 },
		"no multiple":    func(o *Options) { o.Offset = 100 },
		"percent":        func(o *Options) { o.ReadPercent = 101 },
		"flush every":    func(o *Options) { o.FlushEvery = -1 },
		"run for":        func(o *Options) { o.Run = 0 },
		"run for 1h":     func(o *Options) { o.Run = time.Hour },
		"are needed":     func(o *Options) { o.Length = 64 << 10 },
		"of a disk of":   func(o *Options) { o.Length = 1 << 40 },
		"a disk of 6710": func(o *Options) { o.Offset = 1 << 40 },
		"export's name":  func(o *Options) { o.Export = strings.Repeat("x", 5000) },
		"is refused":     func(o *Options) { o.Export = "nonsense" },
		"connect":        func(o *Options) { o.Addr = "/nonexistent" },
	} {
		o := options(s)
		change(&o)
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
}

func TestExports(t *testing.T) {
	for words, e := range map[string]nbdtest.Export{
		"read-only":      {Flags: nbdtest.DefaultFlags | nbdtest.FlagReadOnly},
		"has no flush":   {Flags: nbdtest.FlagHasFlags},
		"is no multiple": {BlockSize: &nbdtest.BlockSize{Min: 8192, Preferred: 8192, MaxPayload: 1 << 20}},
	} {
		e.Disk = nbdtest.NewDisk(64 << 20)
		s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{e}})
		o := options(s)
		o.FlushEvery = 1
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
}

// TestStartFails when the disk cannot be filled, or not in time.
func TestStartFails(t *testing.T) {
	nbdtest.CheckLeaks(t)
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdWrite), Times: 1, Fault: nbdtest.Fault{Errno: nbdtest.ENOSPC}})
	if _, err := Start(t.Context(), options(s)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	release := s.StallReplies()
	defer release()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no more time")
	filling, sofar := make(chan struct{}), s.Count(nbdtest.Op(nbdtest.CmdWrite))
	go func() {
		defer close(filling)
		nbdtest.WaitFor(t, "writes", func() bool { return s.Count(nbdtest.Op(nbdtest.CmdWrite)) > sofar })
		cancel(why)
	}()
	if _, err := Start(ctx, options(s)); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	<-filling
}

// TestStrangeServers have a handshake that is not understood.
func TestStrangeServers(t *testing.T) {
	hello := be.AppendUint16(be.AppendUint64(be.AppendUint64(nil, magicInit), magicOption), fixedNewstyle)
	reply := func(typ uint32, data string) string {
		b := be.AppendUint32(be.AppendUint64(nil, magicOptReply), optGo)
		return string(be.AppendUint32(be.AppendUint32(b, typ), uint32(len(data)))) + data
	}
	for words, say := range map[string]string{
		"no newstyle":      strings.Repeat("SSH-", 10),
		"fixed newstyle":   string(hello[:16]) + "\x00\x00",
		"no greeting":      "NBD",
		"does not tell":    string(hello) + reply(repAck, ""),
		"without end":      string(hello) + strings.Repeat(reply(repInfo, "\x00\x09"), 200),
		"broken reply":     string(hello) + reply(repInfo, strings.Repeat("x", maxOptReply+1)),
		"is refused":       string(hello) + reply(repErrBit+6, "no such export"),
		"answered with ty": string(hello) + reply(2, ""),
	} {
		network, addr := strange(t, say)
		o := Options{Network: network, Addr: addr, Run: time.Second, Timeout: 5 * time.Second}
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
}

// strange is a server that says one thing to one client.
func strange(t *testing.T, say string) (network, addr string) {
	l, err := net.Listen("unix", nbdtest.SocketDir(t)+"/s")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte(say))
		_ = c.(*net.UnixConn).CloseWrite()
		_, _ = c.Read(make([]byte, 4096))
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return "unix", l.Addr().String()
}

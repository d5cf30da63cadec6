package nbdtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

func startProxied(t *testing.T, network string, neg Negotiation) (*Server, *Proxy) {
	t.Helper()
	s := serve(t, neg)
	return s, StartProxy(t, network, s.Network(), s.Addr())
}

func TestProxyForwardsAndCounts(t *testing.T) {
	CheckLeaks(t)
	_, p := startProxied(t, "unix", Negotiation{})
	c := Connect(t, p.Network(), p.Addr(), Options{})
	to, back := p.Bytes(ToServer), p.Bytes(ToClient)
	mustRead(t, c, 0, pattern(4096, 1))
	if d := p.Bytes(ToServer) - to; d != sizeRequest {
		t.Errorf("%d bytes to the server, want %d", d, sizeRequest)
	}
	if d := p.Bytes(ToClient) - back; d != sizeSimple+4096 {
		t.Errorf("%d bytes to the client, want %d", d, sizeSimple+4096)
	}
	mustDo(t, c.Disconnect())
	if p.Conns() != 1 {
		t.Error("the server's FIN ended the client's direction too")
	}
	c.Close()
	WaitFor(t, "the connection to end", func() bool { return p.Conns() == 0 })
}

func TestProxyPassesHalfClose(t *testing.T) {
	s, p := startProxied(t, "tcp", Negotiation{})
	later := make(chan struct{})
	s.AddRule(Rule{Fault: Fault{DelayReply: later}})
	c := Connect(t, p.Network(), p.Addr(), Options{})
	_, err := c.Send(Request{Op: CmdFlush})
	mustDo(t, err)
	mustDo(t, c.CloseWrite())
	WaitFor(t, "the flush", func() bool { return s.Count(Op(CmdFlush)) == 1 })
	close(later)
	_, err = c.Recv() // the way back is still open
	mustDo(t, err)
	mustDo(t, c.ExpectClosed())
}

func TestProxyCutsBothSides(t *testing.T) {
	for how, want := range map[Ending]error{FIN: io.EOF, RST: syscall.ECONNRESET} {
		s, p := startProxied(t, "tcp", Negotiation{})
		c := Connect(t, p.Network(), p.Addr(), Options{})
		p.Cut(BothSides, how)
		c.Conn().SetReadDeadline(time.Now().Add(endTimeout))
		if _, err := c.Conn().Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("ending %d: got %v, want %v", how, err, want)
		}
		WaitFor(t, "the server's side to end", func() bool { return s.Conns() == 0 })
	}
}

func TestProxyCutsAfterBytes(t *testing.T) {
	_, p := startProxied(t, "unix", Negotiation{})
	c := Connect(t, p.Network(), p.Addr(), Options{})
	p.CutAfter(ToClient, 100, FIN)
	mustDo(t, c.WriteRaw(EncodeRequest(false, 0, CmdRead, 1, 0, 4096, nil)))
	got, err := io.ReadAll(c.Conn())
	if err != nil || len(got) != 100 {
		t.Errorf("%d bytes and %v, want 100 and the end", len(got), err)
	}
}

// A stalled middlebox can deliver a write whose client is long gone.
func TestProxyDeliversAfterClientIsGone(t *testing.T) {
	s, p := startProxied(t, "tcp", Negotiation{})
	c := Connect(t, p.Network(), p.Addr(), Options{})
	before := p.Taken(ToServer)
	release := p.Stall(ToServer)
	_, err := c.Send(Request{Op: CmdWrite, Data: pattern(512, 'A')})
	mustDo(t, err)
	WaitFor(t, "the proxy to take the write in", func() bool { return p.Taken(ToServer)-before == sizeRequest+512 })
	if s.Count(Op(CmdWrite)) != 0 {
		t.Fatal("the write passed a stalled proxy")
	}
	p.Cut(ClientSide, RST)
	direct := dial(t, s, Options{})
	mustDo(t, direct.Write(0, pattern(512, 'B'), 0))
	release()
	WaitFor(t, "the late write", func() bool {
		b, err := direct.Read(0, 512, 0)
		return err == nil && bytes.Equal(b, pattern(512, 'A'))
	})
}

func TestProxyThrottles(t *testing.T) {
	_, p := startProxied(t, "unix", Negotiation{})
	c := Connect(t, p.Network(), p.Addr(), Options{})
	passed := p.Bytes(ToClient)
	p.Throttle(ToClient, 1)
	_, err := c.Send(Request{Op: CmdRead, Length: 4096})
	mustDo(t, err)
	time.Sleep(50 * time.Millisecond)
	if n := p.Bytes(ToClient) - passed; n >= sizeSimple+4096 {
		t.Errorf("%d bytes passed at 1 byte a second", n)
	}
	p.Throttle(ToClient, 0)
	rep, err := c.Recv()
	if err != nil || !bytes.Equal(rep.Data, pattern(4096, 1)) {
		t.Errorf("after the throttle: %v", err)
	}
}

func TestProxyRefusesAndRetargets(t *testing.T) {
	_, p := startProxied(t, "unix", Negotiation{})
	p.Refuse(true)
	if c, err := Dial(p.Network(), p.Addr(), Options{}); err == nil {
		c.Close()
		t.Error("a refusing proxy forwards")
	}
	p.Refuse(false)
	other := StartServer(t, ServerOptions{Exports: []Export{{Disk: NewDisk(4096)}}})
	p.SetTarget(other.Network(), other.Addr())
	if c := Connect(t, p.Network(), p.Addr(), Options{}); c.Info.Size != 4096 {
		t.Errorf("size %d, want that of the new target", c.Info.Size)
	}
	other.Kill(FIN)
	if c, err := Dial(p.Network(), p.Addr(), Options{}); err == nil {
		c.Close()
		t.Error("connected to a dead target")
	}
}

func TestProxyPassesReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	mustDo(t, err)
	defer l.Close()
	p := StartProxy(t, "tcp", "tcp", l.Addr().String())
	client, err := net.Dial(p.Network(), p.Addr())
	mustDo(t, err)
	server, err := l.Accept()
	mustDo(t, err)
	defer server.Close()
	mustDo(t, abort(client))
	server.SetReadDeadline(time.Now().Add(endTimeout))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want the client's reset", err)
	}
}

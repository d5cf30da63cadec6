package nbdtest

import (
	"io"
	"testing"
)

// A held write must land after everything, however its connection ended.
func TestHeldWriteLandsLate(t *testing.T) {
	endings := map[string]func(t *testing.T, s *Server, p *Proxy, c *Client){
		"server closes": func(t *testing.T, s *Server, p *Proxy, c *Client) {
			mustDo(t, c.ExpectClosed())
		},
		"proxy cuts": func(t *testing.T, s *Server, p *Proxy, c *Client) {
			p.Cut(BothSides, RST)
			mustDo(t, c.ExpectClosed())
		},
		"proxy cuts the client": func(t *testing.T, s *Server, p *Proxy, c *Client) {
			p.Cut(ClientSide, RST)
			mustDo(t, c.ExpectClosed())
			if s.Conns() != 1 {
				t.Error("the server's side went too")
			}
		},
		"client resets": func(t *testing.T, s *Server, p *Proxy, c *Client) {
			mustDo(t, c.Reset())
		},
	}
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			CheckLeaks(t)
			s := StartServer(t, ServerOptions{Network: "tcp", Exports: []Export{{Disk: NewDisk(1 << 20)}}})
			p := StartProxy(t, "tcp", s.Network(), s.Addr())
			held := s.HoldWrites(Match{Ops: []uint16{CmdWrite}, To: 4096}, 1, name == "server closes", RST)
			c := Connect(t, p.Network(), p.Addr(), Options{})
			_, err := c.Send(Request{Op: CmdWrite, Data: pattern(4096, 'A')})
			mustDo(t, err)
			held.Wait(t, 1)
			ending(t, s, p, c)

			c2 := Connect(t, s.Network(), s.Addr(), Options{})
			mustRead(t, c2, 0, make([]byte, 4096))
			mustDo(t, c2.Write(0, pattern(4096, 'B'), 0))
			mustRead(t, c2, 0, pattern(4096, 'B'))
			held.Release()
			mustRead(t, c2, 0, pattern(4096, 'A')) // the harm is done
			if log := s.Log(); log[0].Done <= log[2].Done || log[0].Conn != 1 {
				t.Errorf("log %v: want the first write carried out after the second", log)
			}
		})
	}
}

// The server's EOF after a half-close is a fence: nothing is held behind it.
func TestHalfCloseWaitsForHeldWrite(t *testing.T) {
	s := StartServer(t, ServerOptions{Exports: []Export{{Disk: NewDisk(1 << 20)}}})
	held := s.HoldWrites(Op(CmdWrite), 0, false, FIN)
	c := dial(t, s, Options{})
	_, err := c.Send(Request{Op: CmdWrite, Data: pattern(512, 'A')})
	mustDo(t, err)
	held.Wait(t, 1)
	mustDo(t, c.CloseWrite())
	if s.Conns() != 1 {
		t.Error("the server closed before the held write")
	}
	held.Release()
	if _, err := c.Recv(); err != nil {
		t.Error(err)
	}
	mustDo(t, c.ExpectClosed())
}

// With CloseAtEOF the same EOF is none.
func TestCloseAtEOFIsNoFence(t *testing.T) {
	s := StartServer(t, ServerOptions{Negotiation: Negotiation{CloseAtEOF: true}, Exports: []Export{{Disk: NewDisk(1 << 20)}}})
	held := s.HoldWrites(Op(CmdWrite), 0, false, FIN)
	c := dial(t, s, Options{})
	_, err := c.Send(Request{Op: CmdWrite, Data: pattern(512, 'A')})
	mustDo(t, err)
	held.Wait(t, 1)
	mustDo(t, c.CloseWrite())
	if _, err := io.ReadAll(c.Conn()); err != nil {
		t.Error(err)
	}
	held.Release()
	mustRead(t, dial(t, s, Options{}), 0, pattern(512, 'A'))
}

func TestHeldAfterRelease(t *testing.T) {
	s := StartServer(t, ServerOptions{Exports: []Export{{Disk: NewDisk(1 << 20)}}})
	held := s.HoldWrites(Op(CmdWrite), 0, true, FIN)
	held.Release()
	mustDo(t, dial(t, s, Options{}).Write(0, pattern(512, 1), 0))
	if held.Held() != 0 {
		t.Error("a write is held after the release")
	}
}

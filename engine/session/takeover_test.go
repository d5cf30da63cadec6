package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/session"
	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// altered is the nbd plugin as another version, whose answers can be tampered
// with: actions that answer an event of some kind go through alter.
type altered struct {
	guest.Module
	alter func(event uint16, opened *abi.Opened, actions []byte) ([]byte, error)
}

func (m *altered) NewInstance(ctx context.Context) (guest.Instance, error) {
	i, err := m.Module.NewInstance(ctx)
	return &alteredInstance{i, m}, err
}

type alteredInstance struct {
	guest.Instance
	m *altered
}

func (i *alteredInstance) Call(n int, budget int64) ([]byte, bool, error) {
	kind, opened := uint16(0), (*abi.Opened)(nil)
	if n > 0 {
		kind = abi.Overlay[abi.Header](i.Input()).Kind
	}
	if kind == abi.EvOpened {
		o := *abi.Overlay[abi.Opened](i.Input())
		opened = &o
	}
	actions, more, err := i.Instance.Call(n, budget)
	if err == nil && i.m.alter != nil {
		actions, err = i.m.alter(kind, opened, actions)
	}
	return actions, more, err
}

// version makes generation n for a rig.
func (r *rig) version(n int, alter func(uint16, *abi.Opened, []byte) ([]byte, error)) *session.Generation {
	m := guest.Linked(nbd.Plugin())
	if alter != nil {
		m = &altered{m, alter}
	}
	return session.NewGeneration(n, modules(m), nil, len(r.reactors))
}

// onLimits changes every Limits record.
func onLimits(f func(*abi.Limits)) func(uint16, *abi.Opened, []byte) ([]byte, error) {
	return func(_ uint16, _ *abi.Opened, actions []byte) ([]byte, error) {
		for b := actions; len(b) > 0; {
			rec, rest, ok := abi.Next(b)
			if !ok {
				break
			}
			if abi.Overlay[abi.Header](rec).Kind == abi.ActLimits {
				f(abi.Overlay[abi.Limits](rec))
			}
			b = rest
		}
		return actions, nil
	}
}

// load writes and reads back on every reactor until it is stopped.
type load struct {
	stop   atomic.Bool
	done   sync.WaitGroup
	ops    atomic.Int64
	failed atomic.Int64
}

const loadDepth = 8

// startLoad uses loadDepth regions of each reactor. Every seventh round ends
// with a flush.
func (r *rig) startLoad(reactors int) *load {
	l := &load{}
	for n := range reactors {
		c := r.open(n)
		for d := range loadDepth {
			l.done.Go(func() { l.worker(r.t, c, uint64(n*loadDepth+d)*65536) })
		}
	}
	return l
}

func (l *load) worker(t *testing.T, c *client, at uint64) {
	for i := uint64(1); !l.stop.Load(); i++ {
		size := uint64(4096) << (i % 4)
		data := random(int(size), i)
		calls := []*call{c.start(block.OpWrite, 0, at, size, data)}
		if i%7 == 0 {
			calls = append(calls, c.start(block.OpFlush, 0, 0, 0))
		}
		for _, k := range calls {
			if st := k.wait(t); st != block.OK {
				l.failed.Add(1)
				t.Errorf("%v: %v", k.Op, st)
			}
		}
		got := bytes.Repeat([]byte{0xEE}, int(size))
		if st := c.start(block.OpRead, 0, at, size, got).wait(t); st != block.OK || !bytes.Equal(got, data) {
			l.failed.Add(1)
			t.Errorf("read %d bytes at %d in round %d: %v, %s", size, at, i, st, origin(got, data, i))
			return
		}
		l.ops.Add(1)
	}
}

// origin says which rounds the blocks of a read are of that should not be there.
func origin(got, want []byte, round uint64) string {
	var list []string
	for at := 0; at < len(got); at += 4096 {
		b := got[at : at+4096]
		if bytes.Equal(b, want[at:at+4096]) {
			continue
		}
		from := "unknown"
		for j := round; j+32 > round && j > 0; j-- {
			if old := random(4096<<(j%4), j); at+4096 <= len(old) && bytes.Equal(b, old[at:at+4096]) {
				from = fmt.Sprint(j)
				break
			}
		}
		list = append(list, fmt.Sprintf("%d is of round %s", at, from))
	}
	return strings.Join(list, ", ")
}

func (l *load) end(t *testing.T) {
	t.Helper()
	after := l.ops.Load() + 2*loadDepth
	nbdtest.WaitFor(t, "the load to go on", func() bool { return l.ops.Load() >= after || l.failed.Load() > 0 })
	l.stop.Store(true)
	l.done.Wait()
	if l.failed.Load() > 0 {
		t.Errorf("%d rounds, %d failures", l.ops.Load(), l.failed.Load())
	}
}

func methods(m ...session.Method) []session.Method { return m }

func TestTakeOverUnderLoad(t *testing.T) {
	many := nbdtest.ServerOptions{}
	fewer := nbdtest.ServerOptions{Negotiation: nbdtest.Negotiation{MaxClients: 1, CloseExcess: true}}
	for name, c := range map[string]struct {
		server   nbdtest.ServerOptions
		method   session.Method
		reactors int
	}{
		"handover, one client":            {oneClient(), session.Handover, 1},
		"handover, two connections":       {many, session.Handover, 2},
		"second session":                  {many, session.SecondSession, 1},
		"second session, two connections": {many, session.SecondSession, 2},
		"serial, one client":              {oneClient(), session.Serial, 1},
		"serial, two connections":         {many, session.Serial, 2},
		"serial, fewer than promised":     {fewer, session.Serial, 2},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := serve(t, c.server, rigOptions{reactors: c.reactors})
			l := r.startLoad(c.reactors)
			for n := 2; n < 22; n++ {
				out, err := r.sess.TakeOver(t.Context(), session.Takeover{To: r.version(n, nil), Methods: methods(c.method)})
				if err != nil {
					t.Fatalf("takeover %d: %v", n, err)
				}
				if out.Method != c.method || r.sess.Generation().Number() != n {
					t.Fatalf("%v, generation %d", out.Method, r.sess.Generation().Number())
				}
				if n%5 == 0 {
					t.Logf("a request waited %v", out.Pause)
				}
				time.Sleep(10 * time.Millisecond)
			}
			l.end(t)
			if k := r.sess.Counters(); k.Losses+k.Violations+k.Traps+k.LostCaches > 0 {
				t.Errorf("%+v", k)
			}
		})
	}
}

// What cannot be known to be good changes nothing.
func TestRefusedTakeOver(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(uint16, *abi.Opened, []byte) ([]byte, error)
		says  string
	}{
		"other size":       {onLimits(func(l *abi.Limits) { l.Size += 4096 }), "shows"},
		"smaller":          {onLimits(func(l *abi.Limits) { l.Size -= 4096 }), "shrunk"},
		"other block size": {onLimits(func(l *abi.Limits) { l.BlockSize = 4096 }), "block size"},
		"other disk":       {onLimits(func(l *abi.Limits) { l.IdentityLen = 0 }), "another disk"},
		"no flush":         {onLimits(func(l *abi.Limits) { l.Caps &^= uint32(block.CapFlush) }), "flush"},
		"trap": {func(uint16, *abi.Opened, []byte) ([]byte, error) {
			return nil, &guest.Trap{Cause: "unreachable"}
		}, "trapped"},
		"nothing": {func(e uint16, _ *abi.Opened, a []byte) ([]byte, error) {
			if e == abi.EvOpened {
				return nil, nil
			}
			return a[:0], nil
		}, "answer"},
	} {
		for _, m := range []session.Method{session.Handover, session.SecondSession, session.Serial} {
			if name == "nothing" && m != session.Handover {
				continue // it takes as long as a login may
			}
			t.Run(fmt.Sprint(name, " ", m), func(t *testing.T) {
				t.Parallel()
				_, r := serve(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Name: "d", Disk: nbdtest.NewDisk(8 << 20)}}},
					rigOptions{options: "export=d\x00"})
				l := r.startLoad(1)
				g := session.NewGeneration(2, modules(&altered{guest.Linked(nbd.Plugin()), c.alter}), []byte("export=d\x00"), 1)
				_, err := r.sess.TakeOver(t.Context(), session.Takeover{To: g, Methods: methods(m)})
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want one with %q", err, c.says)
				}
				if n := r.sess.Generation().Number(); n != 1 {
					t.Errorf("generation %d", n)
				}
				l.end(t)
				r.waitState(volume.Online)
			})
		}
	}
}

// A state that is not understood is a reason for another method, not a failure.
func TestStateThatIsNotUnderstood(t *testing.T) {
	_, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
	l := r.startLoad(1)
	g := r.version(2, func(_ uint16, o *abi.Opened, a []byte) ([]byte, error) {
		if o != nil && o.Session == abi.SessionResumed {
			return failRecord("another format"), nil
		}
		return a, nil
	})
	var told []string
	out, err := r.sess.TakeOver(t.Context(), session.Takeover{To: g, Report: func(m session.Method, text string) {
		told = append(told, fmt.Sprint(m, ": ", text))
	}})
	if err != nil || out.Method != session.SecondSession {
		t.Fatalf("%v, %v", out, err)
	}
	if len(told) == 0 || !strings.Contains(told[0], "another format") {
		t.Errorf("told %q", told)
	}
	l.end(t)
}

func failRecord(text string) []byte {
	size := abi.Align(24 + len(text))
	words := make([]uint64, size/8)
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), size)
	*abi.Overlay[abi.Fail](raw) = abi.Fail{Header: abi.Header{Kind: abi.ActFail, Size: uint32(size)},
		Scope: abi.FailConn, Status: 22, Len: uint32(len(text))}
	copy(raw[24:], text)
	return raw
}

// A server that does not answer in time leaves everything as it is.
func TestDrainDeadline(t *testing.T) {
	for _, m := range []session.Method{session.Handover, session.SecondSession, session.Serial} {
		t.Run(m.String(), func(t *testing.T) {
			s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
			c := r.open(0)
			held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.FIN)
			a := c.start(block.OpWrite, 0, 0, 4096, random(4096, 1))
			held.Wait(t, 1)
			_, err := r.sess.TakeOver(t.Context(), session.Takeover{To: r.version(2, nil), Methods: methods(m), Drain: 100 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), "outstanding") {
				t.Fatalf("error %v", err)
			}
			if n := r.sess.Generation().Number(); n != 1 {
				t.Errorf("generation %d", n)
			}
			c.write(1<<20, random(4096, 2))
			held.Release()
			if st := a.wait(t); st != block.OK {
				t.Fatal(st)
			}
			if st := c.flush(); st != block.OK {
				t.Fatal(st)
			}
			if !bytes.Equal(c.read(0, 4096), random(4096, 1)) || !bytes.Equal(c.read(1<<20, 4096), random(4096, 2)) {
				t.Fatal("data differs")
			}
			if _, err := r.sess.TakeOver(t.Context(), session.Takeover{To: r.version(3, nil), Methods: methods(m)}); err != nil {
				t.Fatalf("the next one: %v", err)
			}
			c.write(0, random(4096, 3))
			if k := r.sess.Counters(); k.Losses+k.Fences+k.LostCaches > 0 {
				t.Errorf("%+v", k)
			}
		})
	}
}

// Rule 3 across generations: a flush after the cutover waits for the writes that
// the generation before still has, and covers what it has acknowledged.
func TestFlushCoversTheGenerationBefore(t *testing.T) {
	disk := nbdtest.NewDisk(8 << 20)
	s, r := serve(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: disk}}}, rigOptions{})
	c := r.open(0)
	c.write(4096, random(4096, 1)) // acknowledged by generation 1, not flushed
	held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.FIN)
	a := c.start(block.OpWrite, 0, 0, 4096, random(4096, 2))
	held.Wait(t, 1)
	over := make(chan error, 1)
	go func() {
		_, err := r.sess.TakeOver(context.Background(), session.Takeover{To: r.version(2, nil), Methods: methods(session.SecondSession)})
		over <- err
	}()
	nbdtest.WaitFor(t, "the cutover", func() bool { return r.sess.Generation().Number() == 2 })
	f := c.start(block.OpFlush, 0, 0, 0)
	c.write(8192, random(4096, 3)) // new requests do not wait
	if f.isDone() {
		t.Fatal("the flush did not wait for the generation before")
	}
	held.Release()
	if st := a.wait(t); st != block.OK {
		t.Fatal(st)
	}
	if st := f.wait(t); st != block.OK {
		t.Fatal(st)
	}
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	disk.Crash()
	for i, at := range []uint64{4096, 0} {
		got := make([]byte, 4096)
		disk.ReadStable(got, at)
		if !bytes.Equal(got, random(4096, uint64(i+1))) {
			t.Errorf("what was written at %d before the flush is lost", at)
		}
	}
}

// A flush of the takeover's own that fails is the guest's to know, and the
// serial method does not leave then.
func TestTheTakeOversOwnFlushFails(t *testing.T) {
	for _, m := range []session.Method{session.SecondSession, session.Serial} {
		t.Run(m.String(), func(t *testing.T) {
			s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
			c := r.open(0)
			c.write(0, random(4096, 1))
			s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdFlush), Times: 1, Fault: nbdtest.Fault{Errno: 5}})
			_, err := r.sess.TakeOver(t.Context(), session.Takeover{To: r.version(2, nil), Methods: methods(m)})
			if m == session.Serial && (err == nil || r.sess.Generation().Number() != 1) {
				t.Errorf("error %v, generation %d", err, r.sess.Generation().Number())
			}
			if m == session.SecondSession && err != nil {
				t.Error(err)
			}
			if st := c.flush(); st != block.EIO {
				t.Errorf("the guest's flush: %v", st)
			}
			if st := c.flush(); st != block.OK {
				t.Errorf("the one after: %v", st)
			}
		})
	}
}

// A server that is away cannot speak for or against a version.
func TestTakeOverWhileAway(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{timeout: 3 * time.Second, trust: true})
	c := r.open(0)
	c.write(0, random(4096, 1))
	s.Kill(nbdtest.FIN)
	r.waitState(volume.Away)
	out, err := r.sess.TakeOver(t.Context(), session.Takeover{To: r.version(2, nil)})
	if err != nil || out.Method != session.Serial {
		t.Fatalf("%v, %v", out, err)
	}
	s.Listen()
	r.waitState(volume.Online)
	if !bytes.Equal(c.read(0, 4096), random(4096, 1)) || r.sess.Generation().Number() != 2 {
		t.Fatal("not the same disk, or generation")
	}
}

func TestVerify(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
	l := r.startLoad(1)
	if err := r.sess.Verify(t.Context(), r.version(2, nil)); err != nil {
		t.Error(err)
	}
	err := r.sess.Verify(t.Context(), r.version(3, onLimits(func(l *abi.Limits) { l.Size *= 2 })))
	if err == nil || errors.Is(err, session.ErrNotVerified) {
		t.Errorf("another size: %v", err)
	}
	l.end(t)
	nbdtest.WaitFor(t, "the trial connections to end", func() bool { return s.Conns() == 1 })
	if n := r.sess.Generation().Number(); n != 1 {
		t.Errorf("generation %d", n)
	}
	_, single := serve(t, oneClient(), rigOptions{})
	single.open(0)
	if err := single.sess.Verify(t.Context(), single.version(2, nil)); !errors.Is(err, session.ErrNotVerified) {
		t.Errorf("a server with one connection: %v", err)
	}
}

// oneClient is a server that neither promises nor admits more than one.
func oneClient() nbdtest.ServerOptions {
	return nbdtest.ServerOptions{Negotiation: nbdtest.Negotiation{MaxClients: 1},
		Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(64 << 20), Flags: nbdtest.DefaultFlags &^ nbdtest.FlagMultiConn}}}
}

// Cut gives up a version that is not to be trusted; what it had is replayed.
func TestCutUnderLoad(t *testing.T) {
	_, r := serve(t, nbdtest.ServerOptions{}, rigOptions{reactors: 2, trust: true})
	l := r.startLoad(2)
	for n := 2; n < 12; n++ {
		time.Sleep(20 * time.Millisecond)
		r.sess.Cut(r.version(n, nil), "it is not trusted")
	}
	l.end(t)
	if r.sess.Generation().Number() != 11 || r.sess.Counters().Replays == 0 {
		t.Errorf("generation %d, %+v", r.sess.Generation().Number(), r.sess.Counters())
	}
}

// Everything at once: takeovers by all methods, and a server that loses
// connections, stalls, and holds writes for longer than their connections live.
func TestTakeOversAmongFaults(t *testing.T) { amongFaults(t, 5, 0) }

// With cuts writes are not held: a server that ends a connection by itself,
// just when it was to answer our half-close, and executes a write of it later,
// is one that rule 1 knows no remedy for but the fence time.
func TestTakeOversAndCutsAmongFaults(t *testing.T) { amongFaults(t, 4, 8) }

// amongFaults uses the first faults of misbehave, and cuts one time in cuts.
func amongFaults(t *testing.T, faults, cuts int) {
	s, r := serve(t, nbdtest.ServerOptions{BadClients: true}, rigOptions{reactors: 2, trust: true, fence: time.Second, timeout: 30 * time.Second})
	l := r.startLoad(2)
	stop := time.After(4 * time.Second)
	done := map[string]int{}
	for n := 2; ; n++ {
		select {
		case <-stop:
			l.end(t)
			t.Logf("%v; %+v", done, r.sess.Counters())
			return
		default:
		}
		pause := time.AfterFunc(time.Duration(rand.IntN(4))*time.Millisecond, func() { misbehave(s, rand.IntN(faults)) })
		if cuts > 0 && rand.IntN(cuts) == 0 {
			r.sess.Cut(r.version(n, nil), "it is not trusted")
			done["cut"]++
		} else {
			var m []session.Method
			if rand.IntN(4) > 0 {
				m = methods(session.Method(1 + rand.IntN(3)))
			}
			out, err := r.sess.TakeOver(t.Context(), session.Takeover{To: r.version(n, nil), Methods: m, Drain: 300 * time.Millisecond})
			if err != nil {
				done["refused"]++
			} else {
				done[out.Method.String()]++
			}
		}
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		pause.Stop()
	}
}

// misbehave does one thing to the server's connections, for a short while.
func misbehave(s *nbdtest.Server, fault int) {
	short := time.Duration(1+rand.IntN(20)) * time.Millisecond
	switch fault {
	case 0:
		s.KillAll(nbdtest.FIN)
	case 1:
		s.KillAll(nbdtest.RST)
	case 2:
		release := s.StallReplies()
		time.Sleep(short)
		release()
	case 3:
		release := s.StallReads()
		time.Sleep(short)
		release()
	case 4:
		held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 2, rand.IntN(2) == 0, nbdtest.FIN)
		time.Sleep(short)
		if rand.IntN(2) == 0 {
			s.KillAll(nbdtest.FIN)
			time.Sleep(short)
		}
		held.Release()
	}
}

package nbdtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// blocks is a disk of a history: what a test says was on it.
type blocks map[uint64][]byte

func (b blocks) write(op *HistoryOp) { b[op.first] = bytes.Clone(op.Payload()) }

func read(t *testing.T, r *Recorder, client int, block uint64, contents []byte) {
	t.Helper()
	if contents == nil {
		contents = make([]byte, r.BlockSize())
	}
	mustDo(t, r.BeginRead(client, block, 1).Data(contents))
}

func wantIllegal(t *testing.T, r *Recorder) {
	t.Helper()
	if err := r.Check(10 * time.Second); err == nil || !strings.Contains(err.Error(), "no order") {
		t.Errorf("verdict %v, want the history refused", err)
	}
}

func TestModelGoodHistory(t *testing.T) {
	r, disk := NewRecorder(4096, 1), blocks{}
	read(t, r, 0, 5, nil)
	w := r.BeginWrite(0, 5, 1)
	disk.write(w)
	w.OK()
	read(t, r, 1, 5, disk[5])
	z := r.BeginZero(1, 5, 1)
	z.OK()
	read(t, r, 0, 5, nil)
	r.MustCheck(t)
}

func TestModelStaleRead(t *testing.T) {
	r := NewRecorder(512, 1)
	old := r.BeginWrite(0, 0, 1)
	old.OK()
	r.BeginWrite(0, 0, 1).OK()
	read(t, r, 1, 0, old.Payload())
	wantIllegal(t, r)
}

func TestModelLostWrite(t *testing.T) {
	r := NewRecorder(512, 1)
	r.BeginWrite(0, 0, 1).OK()
	read(t, r, 0, 0, nil)
	wantIllegal(t, r)
}

func TestModelResurrectedWrite(t *testing.T) {
	r := NewRecorder(512, 1)
	a := r.BeginWrite(0, 0, 1)
	a.Unknown()
	b := r.BeginWrite(0, 0, 1)
	b.OK()
	read(t, r, 0, 0, a.Payload()) // legal: the unknown one may land after b
	r.MustCheck(t)
	read(t, r, 0, 0, b.Payload()) // but then b cannot come back
	wantIllegal(t, r)
}

// An acknowledged write that comes back over a newer one is illegal at once.
func TestModelResurrectedAcknowledgedWrite(t *testing.T) {
	r := NewRecorder(512, 1)
	a := r.BeginWrite(0, 0, 1)
	a.OK()
	b := r.BeginWrite(0, 0, 1)
	b.OK()
	read(t, r, 0, 0, b.Payload())
	r.MustCheck(t)
	read(t, r, 0, 0, a.Payload())
	wantIllegal(t, r)
}

func TestModelConcurrentWritesEitherOrder(t *testing.T) {
	r := NewRecorder(512, 1)
	a, b := r.BeginWrite(0, 0, 1), r.BeginWrite(1, 0, 1)
	a.OK()
	b.OK()
	read(t, r, 0, 0, a.Payload())
	r.MustCheck(t)
	read(t, r, 0, 0, b.Payload())
	wantIllegal(t, r)
}

func TestModelFailedWriteMayLandOrNot(t *testing.T) {
	for _, landed := range []bool{true, false} {
		r := NewRecorder(512, 1)
		w := r.BeginWrite(0, 3, 1)
		w.Fail()
		read(t, r, 0, 3, nil)
		if landed {
			read(t, r, 0, 3, w.Payload())
		}
		r.MustCheck(t)
		if landed { // once seen it stays
			read(t, r, 0, 3, nil)
			wantIllegal(t, r)
		}
	}
}

func TestModelReadBeforeWriteBegan(t *testing.T) {
	r, other := NewRecorder(512, 1), NewRecorder(512, 1)
	read(t, r, 0, 0, other.BeginWrite(0, 0, 1).Payload()) // value 1, before r wrote it
	r.BeginWrite(0, 0, 1).OK()
	wantIllegal(t, r)
}

func TestModelUnfinishedOperations(t *testing.T) {
	r := NewRecorder(512, 1)
	w := r.BeginWrite(0, 0, 1)
	r.BeginRead(1, 0, 1) // never ends
	read(t, r, 0, 0, w.Payload())
	r.MustCheck(t)
}

// A torn block is told with who wrote its parts, and when: whether the read has
// overlapped a write is what is asked first.
func TestModelTellsWhoTore(t *testing.T) {
	r := NewRecorder(1024, 1)
	one := r.BeginWrite(3, 7, 1) // called 1, returned 2
	one.OK()
	reader := r.BeginRead(5, 7, 1)  // 3
	two := r.BeginWrite(4, 6, 2)    // 4
	two.OK()                        // 5
	r.BeginWrite(4, 8, 1).Unknown() // another block
	err := reader.Data(append(bytes.Clone(one.Payload()[:512]), two.Payload()[1024+512:]...))
	const want = "read by client 5 of 1 blocks from 7, called 3 returned 8: block 7 is torn: its sectors hold the values [1 3]" +
		"; value 1 was written by client 3, called 1 returned 2; value 3 was written by client 4, called 4 returned 5"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestModelGarbage(t *testing.T) {
	r, other := NewRecorder(1024, 1), NewRecorder(1024, 2)
	one, two, alien := r.BeginWrite(0, 0, 1), r.BeginWrite(0, 0, 1), other.BeginWrite(0, 0, 1)
	torn := append(bytes.Clone(one.Payload()[:512]), two.Payload()[512:]...)
	flipped := bytes.Clone(one.Payload())
	flipped[700] ^= 1
	cases := map[string]struct {
		block uint64
		data  []byte
		want  string
	}{
		"torn":         {0, torn, "torn"},
		"flipped bit":  {0, flipped, "garbage"},
		"half a block": {0, append(bytes.Clone(one.Payload()[:512]), make([]byte, 512)...), "garbage"},
		"wrong place":  {7, one.Payload(), "written to block 0"},
		"another run":  {0, alien.Payload(), "another run"},
		"short":        {0, one.Payload()[:512], "512 bytes of 1024"},
	}
	for name, tc := range cases {
		if err := r.BeginRead(0, tc.block, 1).Data(tc.data); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if err := r.Check(time.Second); err == nil || strings.Count(err.Error(), "read by client") != len(cases) {
		t.Errorf("the verdict forgets what was broken: %v", err)
	}
}

// TestModelOverServer runs a load against the kit's own server through cuts, and
// judges it: sound when nothing lies, unsound when a held write lands late.
func TestModelOverServer(t *testing.T) {
	s := StartServer(t, ServerOptions{Exports: []Export{{Disk: NewDisk(1 << 20)}}})
	r := NewRecorder(4096, 42)
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			if err := load(s, r, client, 150); err != nil {
				t.Error(err)
			}
		}()
	}
	for range 5 {
		time.Sleep(5 * time.Millisecond)
		s.KillAll(FIN)
	}
	clients.Wait()
	r.MustCheck(t)

	held := s.HoldWrites(Op(CmdWrite), 1, true, FIN)
	late := r.BeginWrite(0, 1, 1)
	dial(t, s, Options{}).Write(late.Offset(), late.Payload(), 0)
	c := dial(t, s, Options{})
	late.OK() // what an engine does that takes the replay's word for it
	over := r.BeginWrite(0, 1, 1)
	mustDo(t, c.Write(over.Offset(), over.Payload(), 0))
	over.OK()
	held.Release()
	b, err := c.Read(over.Offset(), 4096, 0)
	mustDo(t, err)
	read(t, r, 0, 1, b)
	wantIllegal(t, r)
}

// load reads and writes random blocks and reconnects when cut.
func load(s *Server, r *Recorder, client, n int) error {
	rnd := rand.New(rand.NewPCG(1, uint64(client)))
	var c *Client
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for range n {
		if c == nil {
			var err error
			if c, err = Dial(s.Network(), s.Addr(), Options{Structured: true}); err != nil {
				continue // cut in the handshake
			}
		}
		if err := loadStep(c, r, client, rnd.Uint64N(4), rnd.IntN(2) == 0); err != nil {
			var bad *ProtocolError
			if errors.As(err, &bad) {
				return err
			}
			c.Close()
			c = nil
		}
	}
	return nil
}

func loadStep(c *Client, r *Recorder, client int, block uint64, write bool) error {
	if !write {
		op := r.BeginRead(client, block, 1)
		b, err := c.Read(op.Offset(), 4096, 0)
		if err != nil {
			op.Fail()
			return err
		}
		op.Data(b) // garbage is kept for the verdict
		return nil
	}
	op := r.BeginWrite(client, block, 1)
	if err := c.Write(op.Offset(), op.Payload(), 0); err != nil {
		op.Unknown()
		return err
	}
	op.OK()
	return nil
}

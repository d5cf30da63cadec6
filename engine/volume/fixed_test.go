package volume_test

import (
	"testing"

	"blockengine/engine/iouring"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// fixedStore is a store of which channels take requests without memory.
type fixedStore struct {
	limit uint32 // bytes of its transfers
	most  uint64
	fixed map[uint64]uint16 // buffers by offset
	plain int
}

func (s *fixedStore) Info() block.Info {
	return block.Info{Size: 1 << 20, BlockSize: 512, MaxTransfer: s.limit, Caps: block.CapFlush | block.CapFlushCoversAll}
}
func (s *fixedStore) Channel(done store.Completer) (store.Channel, error) {
	return &fixedChannel{s, done}, nil
}
func (s *fixedStore) Close() error { return nil }

type fixedChannel struct {
	s    *fixedStore
	done store.Completer
}

func (c *fixedChannel) Close() {}

func (c *fixedChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		c.s.plain++
		r.Filled = r.Length
		c.done.Complete(r)
	}
}

func (c *fixedChannel) FixedMax(*iouring.Hub) uint64 { return c.s.most }

func (c *fixedChannel) SubmitFixed(r *block.Request, buffer uint16) {
	c.s.fixed[r.Offset] = buffer
	r.Filled = r.Length
	c.done.Complete(r)
}

// ended collects what has come back.
type ended struct {
	n    int
	done chan struct{}
}

func (e *ended) Completed(batch []*volume.IO) {
	if e.n -= len(batch); e.n == 0 {
		close(e.done)
	}
}

// A request whose payload is a registered buffer goes to a store that can do it,
// whole, with the others of its batch; and to no other.
func TestFixed(t *testing.T) {
	for name, c := range map[string]struct {
		limit      uint32
		most, want uint64 // of the store, and of the volume
		ask        bool
	}{
		"asked":        {64 << 10, 1 << 30, 64 << 10, true},
		"less":         {64 << 10, 4096, 4096, true},
		"no limit":     {0, 8192, 8192, true},
		"none at all":  {0, 1 << 30, volume.MaxTransfer, true},
		"not asked":    {64 << 10, 1 << 30, 0, false},
		"store cannot": {64 << 10, 0, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			testFixed(t, &fixedStore{limit: c.limit, most: c.most, fixed: map[uint64]uint16{}}, c.want, c.ask)
		})
	}
}

func testFixed(t *testing.T, s *fixedStore, want uint64, ask bool) {
	rs := newReactors(t, 1)
	v := volume.New(volume.Options{Name: "v", Reactors: rs, Log: quiet})
	if err := v.Attach(volume.Store(s), s.Info()); err != nil {
		t.Fatal(err)
	}
	fixed := func(op block.Op, off, n uint64, data [][]byte) *volume.IO {
		return &volume.IO{Request: block.Request{Op: op, Offset: off, Length: n, Data: data, Flags: block.FUA}, Fixed: true, Buffer: uint16(off >> 9)}
	}
	small, whole := fixed(block.OpRead, 512, 4096, nil), fixed(block.OpWrite, 8192, 64<<10, nil)
	long := fixed(block.OpRead, 0, 64<<10+512, nil)
	both := fixed(block.OpRead, 1024, 512, [][]byte{make([]byte, 512)})
	flush := fixed(block.OpFlush, 0, 0, nil)
	plain := request(block.OpRead, 0, 0, 512)
	batch := []*volume.IO{small, whole, long, both, flush, plain}
	e := &ended{n: len(batch), done: make(chan struct{})}
	var q *volume.Queue
	rs[0].Do(func() {
		var err error
		if q, err = v.Open(rs[0], e, volume.QueueOptions{}); err != nil {
			t.Error(err)
			close(e.done)
			return
		}
		if ask {
			if got := q.FixedMax(nil); got != want {
				t.Errorf("requests of %d bytes at most, want %d", got, want)
			}
		}
		q.Submit(batch)
	})
	<-e.done
	for _, io := range batch {
		st := block.OK
		if io.Fixed && io.Op.HasPayload() && (io.Data != nil || io.Length > want) {
			st = block.EINVAL
		}
		if io.Status != st {
			t.Errorf("%v of %d bytes at %d: %v, want %v", io.Op, io.Length, io.Offset, io.Status, st)
		}
		if buffer, passed := s.fixed[io.Offset]; io.Fixed && io.Op.HasPayload() && (passed && buffer != io.Buffer || passed != (st == block.OK)) {
			t.Errorf("%v of %d bytes at %d: passed on %v with buffer %d", io.Op, io.Length, io.Offset, passed, buffer)
		}
	}
	rs[0].Do(q.Close)
	if err := v.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

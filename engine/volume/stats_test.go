package volume_test

import (
	"testing"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

func TestStats(t *testing.T) {
	g := newRig(t, 2, flushInfo(block.CapFlushCoversAll))
	var export volume.Stats
	c := g.open(0, volume.QueueOptions{Stats: &export})
	answer := func(c *client, io *volume.IO, st block.Status) {
		c.submit(io)
		g.finish(c.i, st)
		c.wait()
	}
	answer(c, request(block.OpRead, 0, 0, 4096), block.OK)
	answer(c, request(block.OpRead, 0, 0, 512), block.EIO)
	answer(c, request(block.OpWrite, 0, 0, 1024), block.ENOSPC)
	c.ask(request(block.OpRead, 0, 1, 512))
	c.ask(request(99, 0, 0, 512))
	answer(g.clients[0], request(block.OpRead, 0, 0, 512), block.OK)
	answer(g.clients[1], request(block.OpRead, 0, 0, 512), block.OK)

	all := g.v.Stats()
	g.on(0, func() {
		checkOp(t, "export's reads", &export.Ops[block.OpRead], 3, 4096+512+512, 2)
		checkOp(t, "export's writes", &export.Ops[block.OpWrite], 1, 1024, 1)
		checkOp(t, "export's invalid ones", &export.Ops[0], 1, 512, 1)
	})
	checkOp(t, "volume's reads", &all.Ops[block.OpRead], 5, 4096+4*512, 2)
	want := map[block.Status]uint64{block.EIO: 1, block.ENOSPC: 1, block.EINVAL: 2}
	for _, e := range all.Errors {
		if e.Count != want[e.Status] {
			t.Errorf("%v: %d errors, want %d", e.Status, e.Count, want[e.Status])
		}
		delete(want, e.Status)
	}
	if len(want) > 0 {
		t.Errorf("errors not counted: %v", want)
	}
}

func checkOp(t *testing.T, what string, o *volume.OpStats, requests, bytes, errors uint64) {
	t.Helper()
	if o.Requests != requests || o.Bytes != bytes || o.Errors != errors {
		t.Errorf("%s: %d requests, %d bytes, %d errors, want %d, %d, %d", what, o.Requests, o.Bytes, o.Errors, requests, bytes, errors)
	}
	n := uint64(0)
	for _, b := range o.Latency {
		n += b
	}
	if n != requests {
		t.Errorf("%s: the histogram counts %d", what, n)
	}
}

// More kinds of errors than there are places: all are counted, and the last
// place takes what finds none.
func TestStatsOfManyErrors(t *testing.T) {
	g := newRig(t, 1, flushInfo(block.CapFlushCoversAll))
	c := g.clients[0]
	for st := block.Status(1); st <= 12; st++ {
		c.submit(request(block.OpRead, 0, 0, 512))
		g.finish(0, st)
		c.wait()
	}
	s := g.v.Stats()
	for i, e := range s.Errors {
		want := uint64(1)
		if i == len(s.Errors)-1 {
			want = 5
		}
		if e.Count != want {
			t.Errorf("place %d: %v counted %d times, want %d", i, e.Status, e.Count, want)
		}
	}
	var sum volume.Stats
	sum.Add(&s)
	sum.Add(&s)
	checkOp(t, "twice the sum", &sum.Ops[block.OpRead], 24, 24*512, 24)
	if e := sum.Errors[len(sum.Errors)-1]; e.Count != 10 {
		t.Errorf("the last place of the sum counts %d", e.Count)
	}
}

func TestBucketBounds(t *testing.T) {
	for i := 1; i < volume.LatencyBuckets; i++ {
		if volume.BucketBound(i) != 2*volume.BucketBound(i-1) || volume.BucketBound(0) != 1024 {
			t.Fatalf("bucket %d ends at %d ns", i, volume.BucketBound(i))
		}
	}
}

package process

import (
	"fmt"
	"testing"

	"blockengine/engine/pluginhost/guest"
)

// BenchmarkPayload is the null store, which fills what it reads with zeroes, in a
// process: payload copied from the slots' buffers, and left in guest memory.
func BenchmarkPayload(b *testing.B) {
	for _, size := range []uint64{4 << 10, 256 << 10} {
		for _, depth := range []int{1, 32} {
			for _, lends := range []bool{false, true} {
				way := "copied"
				if lends {
					way = "lent"
				}
				b.Run(fmt.Sprintf("size=%dKiB/depth=%d/%s", size>>10, depth, way), func(b *testing.B) {
					benchPayload(b, size, depth, lends)
				})
			}
		}
	}
}

func benchPayload(b *testing.B, size uint64, depth int, lends bool) {
	opt := testOptions(b, "null")
	opt.GuestMemory = lends
	l := load(b, opt)
	k, err := l.Store().NewLink(b.Context(), guest.LinkOptions{Volume: "v"})
	if err != nil {
		b.Fatal(err)
	}
	_, mem := guestMemory(b, "guest", 32<<20)
	o := &loader{l: k.(*link), depth: depth, size: size, into: mem[32<<20-size:], done: make(chan struct{}, 1)}
	if lends {
		o.guest = mem
		lendable(b, o.l.lending.lender, mem)
	}
	r := startReactor(b, 0)
	r.Do(func() { err = o.l.Start(r, o) })
	if err != nil {
		b.Fatal(err)
	}
	if err := o.run(r, 2000); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	measure(b, []*loader{o}, l.Status().PID, b.N)
	shut(b, r, k)
}

package vhosttest

import (
	"math"
	"sync/atomic"
	"time"
)

// BadRings are misdeeds of a guest in its memory. The disk runs.
func BadRings() []*Misdeed {
	var all []*Misdeed
	for _, list := range [][]*Misdeed{badIndices(), badChains(), badIndirects(), badRequests(), badMoments()} {
		all = append(all, list...)
	}
	return all
}

func badIndices() []*Misdeed {
	ahead := func(n int) func(*Frontend) error {
		return func(f *Frontend) error {
			r := f.rings[0]
			r.LieAvail(r.published + uint16(n))
			r.Kick()
			return settle(f)
		}
	}
	return []*Misdeed{
		{Name: "ring: an index one beyond the size", Fatal: true, do: func(f *Frontend) error { return ahead(f.rings[0].Size() + 1)(f) }},
		{Name: "ring: an index far ahead", Fatal: true, do: ahead(0x8000)},
		{Name: "ring: an index that goes back", Fatal: true, do: ahead(-1)},
		{Name: "ring: a head outside", Fatal: true, do: func(f *Frontend) error {
			r := f.rings[0]
			r.LieHead(math.MaxUint16)
			r.Publish()
			r.Kick()
			return settle(f)
		}},
		{Name: "ring: a head twice in a batch", Fatal: true, do: func(f *Frontend) error {
			d := f.Driver(0)
			io := &IO{Op: OpFlush}
			if err := d.prepare(io); err != nil {
				return err
			}
			d.Ring.LieHead(io.descs[0])
			d.Ring.Publish()
			return settle(f)
		}},
	}
}

// chain gives a misdeed that submits one raw chain. Its parts lie in one area:
// header at a, data at b, status at c.
func chain(indirect bool, make func(a, b, c uint64) []Desc) func(*Frontend) error {
	return func(f *Frontend) error {
		d := f.Driver(0)
		area, err := newArea(f.mem, 1, pageSize)
		if err != nil {
			return err
		}
		area.encode(OpIn, 0, pageSize)
		body := area.body.Addr
		if _, err := d.Raw(make(area.head.Addr, body, body+pageSize), indirect); err != nil {
			return err
		}
		d.Ring.Publish()
		return settle(f)
	}
}

// settle gives the device time to look. Nothing depends on it but how much a
// misdeed can show: a device that has not looked yet does so before it answers
// the next message, or later.
func settle(f *Frontend) error {
	time.Sleep(5 * time.Millisecond)
	return nil
}

const both = DescNext | DescWrite

func badChains() []*Misdeed {
	far := uint64(1 << 50)
	top := uint64(math.MaxUint64 - 255)
	return []*Misdeed{
		{Name: "chain: a loop of one", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 0}}
		})},
		{Name: "chain: a loop of two", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {b, 512, both, 0}}
		})},
		{Name: "chain: goes on outside the table", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, math.MaxUint16}}
		})},
		{Name: "chain: data outside", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {far, 512, both, 2}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: header outside", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{far, 16, DescNext, 1}, {b, 512, both, 2}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: status outside", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {b, 512, both, 2}, {far, 1, DescWrite, 0}}
		})},
		{Name: "chain: the address wraps", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {top, 4096, both, 2}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: over the end of a region", Fatal: true, do: overTheEnd},
		{Name: "chain: 4 GiB", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {b, math.MaxUint32, both, 2}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: readable behind writable", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{b, 512, both, 1}, {a, 16, DescNext, 2}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: nothing writable", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {b, 512, 0, 0}}
		})},
		{Name: "chain: nothing readable", do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{b, 512, both, 1}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: half a header", do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 8, DescNext, 1}, {b, 512, both, 2}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: descriptors of no length", do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {b, 0, both, 2}, {b, 512, both, 3}, {c, 0, both, 4}, {c, 1, DescWrite, 0}}
		})},
		{Name: "chain: a status of no length", do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {c, 0, DescWrite, 0}}
		})},
		{Name: "chain: unknown flags", do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext | 0xff00, 1}, {b, 512, both | 0xff00, 2}, {c, 1, DescWrite | 0xff00, 0}}
		})},
		{Name: "chain: all on one byte", do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{a, 16, DescNext, 1}, {a, 512, both, 2}, {a, 1, DescWrite, 0}}
		})},
		{Name: "chain: into the rings", do: intoTheRings},
	}
}

// overTheEnd reads to where the last region ends, and on.
func overTheEnd(f *Frontend) error {
	last := f.mem.regions[len(f.mem.regions)-1]
	end := last.Guest + last.Size
	return chain(false, func(a, b, c uint64) []Desc {
		return []Desc{{a, 16, DescNext, 1}, {end - 512, 1024, both, 2}, {c, 1, DescWrite, 0}}
	})(f)
}

// intoTheRings reads a disk's blocks over the descriptor table and the rings.
func intoTheRings(f *Frontend) error {
	r := f.rings[0]
	return chain(false, func(a, b, c uint64) []Desc {
		return []Desc{{a, 16, DescNext, 1}, {r.descMem.Addr, 2048, both, 2}, {r.availMem.Addr, 256, both, 3},
			{r.usedMem.Addr, 1024, both, 4}, {b, 768, both, 5}, {c, 1, DescWrite, 0}}
	})(f)
}

func badIndirects() []*Misdeed {
	// table writes raw descriptors into memory and submits a chain of one that
	// points at them.
	table := func(n uint32, flags uint16, make func(at, b uint64) []Desc) func(*Frontend) error {
		return func(f *Frontend) error {
			b, err := f.mem.Alloc(1, pageSize, pageSize)
			if err != nil {
				return err
			}
			for i, d := range make(b.Addr, b.Addr+2048) {
				putDesc(b.B[i*descSize:], d)
			}
			d := f.Driver(0)
			if _, err := d.Raw([]Desc{{b.Addr, n, DescIndirect | flags, 0}}, false); err != nil {
				return err
			}
			d.Ring.Publish()
			return settle(f)
		}
	}
	fine := func(at, b uint64) []Desc {
		return []Desc{{b, 16, DescNext, 1}, {b + 512, 512, both, 2}, {b + 1024, 1, DescWrite, 0}}
	}
	return []*Misdeed{
		{Name: "indirect: empty", Fatal: true, do: table(0, 0, fine)},
		{Name: "indirect: 17 bytes", Fatal: true, do: table(17, 0, fine)},
		{Name: "indirect: 1 MiB", Fatal: true, do: table(1<<20, 0, fine)},
		{Name: "indirect: 4 GiB", Fatal: true, do: table(math.MaxUint32&^15, 0, fine)},
		{Name: "indirect: goes on in the ring", Fatal: true, do: table(48, DescNext, fine)},
		{Name: "indirect: writable", do: table(48, DescWrite, fine)},
		{Name: "indirect: a table in a table", Fatal: true, do: table(16, 0, func(at, b uint64) []Desc {
			return []Desc{{at, 16, DescIndirect, 0}}
		})},
		{Name: "indirect: a loop", Fatal: true, do: table(32, 0, func(at, b uint64) []Desc {
			return []Desc{{b, 16, DescNext, 1}, {b, 512, both, 0}}
		})},
		{Name: "indirect: goes on outside", Fatal: true, do: table(16, 0, func(at, b uint64) []Desc {
			return []Desc{{b, 16, DescNext, 200}}
		})},
		{Name: "indirect: a table outside", Fatal: true, do: chain(false, func(a, b, c uint64) []Desc {
			return []Desc{{1 << 50, 48, DescIndirect, 0}}
		})},
	}
}

// badRequests are well-formed chains with nonsense in them: each is answered.
func badRequests() []*Misdeed {
	request := func(op uint32, sector uint64, n int) func(*Frontend) error {
		return func(f *Frontend) error {
			d := f.Driver(0)
			defer d.Close()
			d.Timeout = f.o.Timeout
			io := &IO{Op: op, Sector: sector, Data: make([]byte, n)}
			return doneAtAll(io, d.Do(io))
		}
	}
	return []*Misdeed{
		{Name: "request: operation 77", Legal: true, do: request(77, 0, 512)},
		{Name: "request: a read of nothing", Legal: true, do: request(OpIn, 0, 0)},
		{Name: "request: 100 bytes", Legal: true, do: request(OpOut, 0, 100)},
		{Name: "request: the last sector there can be", Legal: true, do: request(OpIn, math.MaxUint64, 512)},
		{Name: "request: a sector whose offset wraps", Legal: true, do: request(OpOut, 1<<55, 512)},
		{Name: "request: a flush at a sector", Legal: true, do: request(OpFlush, 99, 0)},
		{Name: "request: an ID into 8 bytes", Legal: true, do: request(OpGetID, 0, 8)},
		{Name: "request: discard of no range", Legal: true, do: request(OpDiscard, 0, 0)},
		{Name: "request: discard of half a range", Legal: true, do: request(OpDiscard, 0, 17)},
		{Name: "request: write zeroes of 200 ranges", Legal: true, do: request(OpWriteZeroes, 0, 3200)},
		{Name: "request: write zeroes with unknown flags", Legal: true, do: func(f *Frontend) error {
			d := f.Driver(0)
			defer d.Close()
			io := &IO{Op: OpWriteZeroes, Data: encodeRanges([]Range{{0, 1, 0xfffffffe}})}
			return doneAtAll(io, d.Do(io))
		}},
	}
}

// doneAtAll takes any status for an answer.
func doneAtAll(io *IO, err error) error {
	if io.Done {
		return nil
	}
	return err
}

// badMoments are right things at wrong times, and too many of them.
func badMoments() []*Misdeed {
	return []*Misdeed{
		{Name: "storm: kicks for nothing", Legal: true, do: func(f *Frontend) error {
			for range 100_000 {
				f.rings[0].Kick()
			}
			return nil
		}},
		{Name: "memory changes under a request", do: changing},
		{Name: "truncated: the file of a request's data", do: truncated(1)},
		{Name: "truncated: the file of the rings", do: truncated(0)},
		{Name: "truncated: everything", do: func(f *Frontend) error {
			err := truncated(0)(f)
			if err == nil {
				err = f.mem.Truncate(1, 0)
			}
			f.rings[0].Kick()
			return err
		}},
	}
}

// changing rewrites a descriptor between good and bad while the device reads it,
// for a few ms.
func changing(f *Frontend) error {
	d := f.Driver(0)
	a, err := newArea(f.mem, 1, pageSize)
	if err != nil {
		return err
	}
	a.encode(OpIn, 0, pageSize)
	body := a.body.Addr
	io, err := d.Raw([]Desc{{a.head.Addr, 16, DescNext, 1}, {body, 4096, both, 2}, {body + 4096, 1, DescWrite, 0}}, false)
	if err != nil {
		return err
	}
	data := &d.Ring.desc[io.descs[1]].Addr
	d.Ring.Publish()
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
		atomic.StoreUint64(data, 1<<50)
		atomic.StoreUint64(data, body)
		if _, err := d.Collect(); err != nil {
			return err
		}
		if io.Done { // again
			io.Done = false
			d.pending[io.descs[0]] = io
			d.free = d.free[:len(d.free)-len(io.descs)]
			d.Ring.Offer(io.descs[0])
			d.Ring.Publish()
		}
	}
	return nil
}

// truncated cuts a region's file while requests are outstanding. Nothing of it
// is touched here from then on.
func truncated(region int) func(*Frontend) error {
	return func(f *Frontend) error {
		d := f.Driver(0)
		for range 8 {
			if err := d.prepare(&IO{Op: OpIn, Data: make([]byte, 64<<10)}); err != nil {
				return err
			}
		}
		d.Ring.Publish()
		if err := f.mem.Truncate(region, 0); err != nil {
			return err
		}
		f.rings[0].Kick()
		return settle(f)
	}
}

package nbdtest

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync"
)

// pageSize is the grain of the sparse disk, in bytes.
const pageSize = 4096

type page = [pageSize]byte

var zeroPage page

func isZero(b []byte) bool {
	for len(b) > pageSize {
		if !bytes.Equal(b[:pageSize], zeroPage[:]) {
			return false
		}
		b = b[pageSize:]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}

// Disk is a sparse disk in memory with a volatile cache before its stable image:
// writes land in the cache, Flush moves the cache to the stable image, Crash
// loses what was not flushed. Memory follows what is written, not the size.
// All methods may be called at any time from any goroutine; ranges must lie
// within Size (the server checks before it calls).
type Disk struct {
	size uint64

	mu     sync.Mutex
	stable map[uint64]*page // absent: a hole
	cache  map[uint64]*page // pages newer than stable; nil: newly a hole
}

// NewDisk makes a disk of size bytes, all hole.
func NewDisk(size uint64) *Disk {
	return &Disk{size: size, stable: map[uint64]*page{}, cache: map[uint64]*page{}}
}

// Size of the disk in bytes.
func (d *Disk) Size() uint64 { return d.size }

// current gives the page as a reader sees it, nil for a hole. d.mu is held.
func (d *Disk) current(n uint64) *page {
	if p, ok := d.cache[n]; ok {
		return p
	}
	return d.stable[n]
}

// each calls f for every page that [off, off+n) touches: page number, first and
// last+1 byte within it, and the position within the range.
func each(off, n uint64, f func(num, from, to, at uint64)) {
	for at := uint64(0); at < n; {
		num, from := (off+at)/pageSize, (off+at)%pageSize
		to := min(pageSize, from+n-at)
		f(num, from, to, at)
		at += to - from
	}
}

// ReadAt fills b from off as clients see it.
func (d *Disk) ReadAt(b []byte, off uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	each(off, uint64(len(b)), func(num, from, to, at uint64) {
		fillFrom(b[at:at+to-from], d.current(num), from)
	})
}

// ReadStable fills b from off with what would survive a crash.
func (d *Disk) ReadStable(b []byte, off uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	each(off, uint64(len(b)), func(num, from, to, at uint64) {
		fillFrom(b[at:at+to-from], d.stable[num], from)
	})
}

func fillFrom(b []byte, p *page, from uint64) {
	if p == nil {
		clear(b)
		return
	}
	copy(b, p[from:])
}

// WriteAt puts b at off into the cache, and with fua into the stable image too.
func (d *Disk) WriteAt(b []byte, off uint64, fua bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	each(off, uint64(len(b)), func(num, from, to, at uint64) {
		copy(d.dirty(num)[from:to], b[at:])
		if fua {
			copy(d.durable(num)[from:to], b[at:])
		}
	})
}

// dirty gives a private cached page to write to. d.mu is held.
func (d *Disk) dirty(num uint64) *page {
	if p := d.cache[num]; p != nil {
		return p
	}
	p := new(page)
	if _, hole := d.cache[num]; !hole && d.stable[num] != nil {
		*p = *d.stable[num]
	}
	d.cache[num] = p
	return p
}

func (d *Disk) durable(num uint64) *page {
	if d.stable[num] == nil {
		d.stable[num] = new(page)
	}
	return d.stable[num]
}

// Zero zeroes a range. Whole pages become holes, at a cost that follows what is
// present and not n; with keep set all pages are allocated, so callers bound n.
func (d *Disk) Zero(off, n uint64, keep, fua bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if keep {
		each(off, n, func(num, from, to, _ uint64) { d.zeroPart(num, from, to, fua) })
		return
	}
	d.punch(off, n, fua)
}

func (d *Disk) zeroPart(num, from, to uint64, fua bool) {
	clear(d.dirty(num)[from:to])
	if fua {
		clear(d.durable(num)[from:to])
	}
}

// punch visits only pages that exist, however long the range is.
func (d *Disk) punch(off, n uint64, fua bool) {
	end := off + n
	for _, num := range d.present(off, end) {
		start := num * pageSize
		from, to := max(off, start)-start, min(end, start+pageSize)-start
		if to-from < pageSize {
			d.zeroPart(num, from, to, fua)
			continue
		}
		d.cache[num] = nil
		if fua {
			delete(d.stable, num)
		}
	}
}

// present lists, sorted, the pages of [off, end) that hold anything. d.mu is held.
func (d *Disk) present(off, end uint64) []uint64 {
	seen := map[uint64]bool{}
	for _, m := range []map[uint64]*page{d.stable, d.cache} {
		for num := range m {
			if num*pageSize < end && (num+1)*pageSize > off {
				seen[num] = true
			}
		}
	}
	nums := make([]uint64, 0, len(seen))
	for num := range seen {
		nums = append(nums, num)
	}
	slices.Sort(nums)
	return nums
}

// Flush makes everything written so far durable.
func (d *Disk) Flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for num := range d.cache {
		d.settle(num)
	}
}

// settle moves one cached page to the stable image. d.mu is held.
func (d *Disk) settle(num uint64) {
	if p := d.cache[num]; p != nil {
		d.stable[num] = p
	} else {
		delete(d.stable, num)
	}
	delete(d.cache, num)
}

// Crash drops all that was not flushed, as a power cut does at its worst.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.cache)
}

// CrashPartly keeps a random half of the unflushed pages, as a real cache does:
// neither order nor completeness is promised.
func (d *Disk) CrashPartly(seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rnd := rand.New(rand.NewPCG(seed, 1))
	nums := make([]uint64, 0, len(d.cache))
	for num := range d.cache {
		nums = append(nums, num)
	}
	slices.Sort(nums)
	for _, num := range nums {
		if rnd.IntN(2) == 0 {
			d.settle(num)
		}
	}
	clear(d.cache)
}

// Dirty is the number of pages that a crash would lose.
func (d *Disk) Dirty() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.cache)
}

// Extents gives the allocation of [off, off+n) in runs, at most limit of them:
// pages that hold anything have status 0, all else is HOLE|ZERO.
func (d *Disk) Extents(off, n uint64, limit int) []Extent {
	d.mu.Lock()
	defer d.mu.Unlock()
	var runs []Extent
	add := func(length, flags uint64) {
		if k := len(runs); k > 0 && runs[k-1].Flags == flags {
			runs[k-1].Length += length
		} else if length > 0 {
			runs = append(runs, Extent{length, flags})
		}
	}
	at, end := off, off+n
	for _, num := range d.present(off, end) {
		if d.current(num) == nil {
			continue
		}
		from, to := max(off, num*pageSize), min(end, (num+1)*pageSize)
		add(from-at, StateHole|StateZero)
		add(to-from, 0)
		at = to
	}
	add(end-at, StateHole|StateZero)
	return runs[:min(len(runs), limit)]
}

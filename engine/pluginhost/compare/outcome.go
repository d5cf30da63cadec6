package compare

import "blockengine/sdk/block"

// Request is one that both versions were offered.
type Request struct {
	Tag    uint64
	Op     block.Op
	Mods   block.Flags
	Offset uint64
	Length uint64
}

// outcome is what one version has made of a request.
type outcome struct {
	held     bool
	done     bool
	released bool
	status   uint32
	partial  uint64
	zeroes   ranges // of a read's payload
	extents  ranges // of a block status
	data     uint64 // what a plugin that transforms has put into a read: see words
	given    ranges // and where
	at       uint64 // position in the received stream when it ended
	step     uint64 // position when the step began in which it ended
	call     uint64
}

// ranges is a set of ranges, kept as what can be compared: however they are cut
// and in whatever order they come, the same bytes give the same values.
type ranges struct {
	sum   uint64
	bytes uint64
}

// add puts [from, to) into the set; state tells sets in it apart.
func (r *ranges) add(from, to, state uint64) {
	r.sum += mix(to, state) - mix(from, state)
	r.bytes += to - from
}

// mix scatters a position, so that sums of them tell sets of ranges apart. It is
// the finisher of a multiplicative hash; nobody has to fear an adversary here,
// who could as well behave while he is looked at.
func mix(pos, state uint64) uint64 {
	x := pos + (state+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>32) * 0xd6e8feb86659fd93
	x = (x ^ x>>29) * 0xff51afd7ed558ccd
	return x ^ x>>32
}

// words sums bytes that stand at position pos of something, so that it does not
// matter how they are cut: each byte counts with its place in a word of 8.
func words(pos uint64, b []byte) (sum uint64) {
	for len(b) > 0 {
		shift := pos & 7
		n := min(8-int(shift), len(b))
		w := uint64(0)
		for i := range n {
			w |= uint64(b[i]) << (8 * (shift + uint64(i)))
		}
		sum += w * (mix(pos>>3, 0) | 1)
		b, pos = b[n:], pos+uint64(n)
	}
	return sum
}

// same tells whether two outcomes are the same to a guest.
func (o *outcome) same(p *outcome) bool {
	return o.released == p.released && o.status == p.status && o.partial == p.partial &&
		o.zeroes == p.zeroes && o.extents == p.extents && o.data == p.data && o.given == p.given
}

// entry is a request and what the versions have made of it.
type entry struct {
	Request
	used  bool
	index uint64 // in the log of requests
	sides [2]outcome
}

// table finds requests by tag. Tags of the engine have a small number in their
// low bits, so a request nearly always sits where its tag points.
type table struct {
	slots [tableSlots]entry
	used  int
	reach uint64 // the farthest that any ever sat from its own place
}

const (
	tableSlots = 2048
	maxEntries = 1536
)

// add makes room for a request, nil if there is none.
func (t *table) add(tag uint64) *entry {
	if t.used == maxEntries {
		return nil
	}
	for d := uint64(0); ; d++ {
		if e := &t.slots[(tag+d)%tableSlots]; !e.used {
			t.used++
			t.reach = max(t.reach, d)
			*e = entry{used: true}
			e.Tag = tag
			return e
		}
	}
}

func (t *table) find(tag uint64) *entry {
	for d := uint64(0); d <= t.reach; d++ {
		if e := &t.slots[(tag+d)%tableSlots]; e.used && e.Tag == tag {
			return e
		}
	}
	return nil
}

func (t *table) remove(e *entry) {
	e.used = false
	t.used--
	if t.used == 0 {
		t.reach = 0
	}
}

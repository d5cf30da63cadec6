package ublk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"unsafe"

	"blockengine/engine/sys"
)

// journal remembers which ranges are being written to, in a file that is mapped:
// what is stored there is there for the next engine, whenever this one is killed.
// The kernel gives the next engine the requests again, or fails them, but does
// not tell it which of those to come had been sent before. So a write to a range
// that a dead engine was writing to counts as sent again (volume.IO.Again) until
// one has been acknowledged, which the layers below do when the fence is over
// (DESIGN chapter 2, rule 1).
//
// The file: a header of four words (magic, slots, owed, stage), then pairs
// of words (offset, length; bytes): one for each tag of each queue, then those
// that are owed. A pair counts where its length is not 0, and the length is
// written last and cleared first. A new engine makes a new file of the old one,
// under another name, and puts it in its place.
type journal struct {
	path  string
	mem   []byte
	words []uint64
	slots int // tags of all queues
	owed  int // pairs after them
	left  atomic.Int64
}

const (
	journalMagic = 0x316c6e726a6b6c62 // "blkjrnl1"
	journalHead  = 4                  // words
	maxOwed      = 1 << 16
	maxSlots     = MaxDepth * MaxQueues
)

// Words of the header.
const (
	wordMagic = iota
	wordSlots
	wordOwed
	wordStage
)

// span is a range of the disk.
type span struct{ offset, length uint64 }

// stage is how far an engine has come with taking a device over.
type stage uint64

const (
	settledDown stage = iota // it serves the device, or does not try yet
	taking                   // the driver is told of the new server, or has been
	fetching                 // queues are fetched: none, some or all
	fetched                  // all are
)

// leftBehind is what a dead engine left in its journal.
type leftBehind struct {
	spans []span
	stage stage
}

// readJournal gives what an engine before has left; nothing if there is no file.
func readJournal(path string) (l leftBehind, err error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil && st.Size() > (journalHead+2*(maxSlots+maxOwed))*8 {
		err = fmt.Errorf("%s has %d bytes, no journal is that long", path, st.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return l, fmt.Errorf("ublk: %w", err)
	}
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	if len(b) < journalHead*8 || word(wordMagic) != journalMagic {
		return l, fmt.Errorf("ublk: %s is no journal: what it was is not known; wait for the volume's fence time and remove it", path)
	}
	n := word(wordSlots) + word(wordOwed)
	if word(wordSlots) > maxSlots || word(wordOwed) > maxOwed || uint64(len(b)) != (journalHead+2*n)*8 {
		return l, fmt.Errorf("ublk: %s has %d bytes and speaks of %d ranges: it is damaged; wait for the volume's fence time and remove it", path, len(b), n)
	}
	l.stage = stage(word(wordStage))
	for i := range int(n) {
		if s := (span{word(journalHead + 2*i), word(journalHead + 2*i + 1)}); s.length != 0 {
			l.spans = append(l.spans, s)
		}
	}
	return l, nil
}

// newJournal puts a journal with slots tags, that owes spans, in the place of the
// one at path.
func newJournal(path string, slots int, l leftBehind) (*journal, error) {
	spans := fewer(l.spans)
	words := journalHead + 2*(slots+len(spans))
	tmp := path + "~"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ublk: %w", err)
	}
	defer f.Close()
	defer os.Remove(tmp) // if it has not got its name
	// Blocks are there from the start: a store into a hole of a full file
	// system would kill us.
	if _, err := f.Write(make([]byte, 8*words)); err != nil {
		return nil, fmt.Errorf("ublk: %w", err)
	}
	mem, err := sys.MapShared(int(f.Fd()), 0, 8*words)
	if err != nil {
		return nil, fmt.Errorf("ublk: %w", err)
	}
	j := &journal{path: path, mem: mem, words: unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), words), slots: slots, owed: len(spans)}
	for i, s := range spans {
		j.put(slots+i, s)
	}
	j.left.Store(int64(len(spans)))
	j.words[wordMagic], j.words[wordSlots], j.words[wordOwed] = journalMagic, uint64(slots), uint64(len(spans))
	j.at(l.stage)
	if err := os.Rename(tmp, path); err != nil {
		j.close()
		return nil, fmt.Errorf("ublk: %w", err)
	}
	return j, nil
}

func (j *journal) close() {
	if j.mem != nil {
		_ = sys.Unmap(j.mem)
		j.mem, j.words = nil, nil
	}
}

// at notes the stage, where it outlives us.
func (j *journal) at(s stage) { atomic.StoreUint64(&j.words[wordStage], uint64(s)) }

func (j *journal) put(i int, s span) {
	at := journalHead + 2*i
	atomic.StoreUint64(&j.words[at], s.offset)
	atomic.StoreUint64(&j.words[at+1], s.length)
}

// begin notes a write before it goes to the volume. Each slot is one thread's.
func (j *journal) begin(slot int, s span) { j.put(slot, s) }

// end forgets it: the volume has answered.
func (j *journal) end(slot int) { atomic.StoreUint64(&j.words[journalHead+2*slot+1], 0) }

// again tells whether a dead engine may have sent a write to a part of s. Safe
// from any thread, as is settled.
func (j *journal) again(s span) bool {
	if j.left.Load() == 0 {
		return false
	}
	for i := range j.owed {
		at := journalHead + 2*(j.slots+i)
		n := atomic.LoadUint64(&j.words[at+1])
		if n != 0 && overlap(span{j.words[at], n}, s) {
			return true
		}
	}
	return false
}

// settled forgets what lies in s, which has been written again and acknowledged.
func (j *journal) settled(s span) {
	for i := range j.owed {
		at := journalHead + 2*(j.slots+i)
		n := atomic.LoadUint64(&j.words[at+1])
		o := j.words[at]
		if n != 0 && o >= s.offset && n <= s.length && o-s.offset <= s.length-n && atomic.CompareAndSwapUint64(&j.words[at+1], n, 0) {
			j.left.Add(-1)
		}
	}
}

func overlap(a, b span) bool {
	if a.offset > b.offset {
		a, b = b, a
	}
	return b.offset-a.offset < a.length
}

// fewer gives the same ranges in at most maxOwed spans: what is too many is one
// that has all of them.
func fewer(spans []span) []span {
	if len(spans) <= maxOwed {
		return spans
	}
	first, last := ^uint64(0), uint64(0)
	for _, s := range spans {
		first, last = min(first, s.offset), max(last, s.offset+s.length)
	}
	return []span{{first, last - first}}
}

package vhosttest

import (
	"errors"
	"fmt"
	"time"

	"blockengine/engine/sys"
)

// Driver makes requests of any layout on one queue. It is for tests: it takes
// memory as it needs it. It belongs to one goroutine, which alone uses its Ring.
type Driver struct {
	Ring    *Ring
	Layout  Layout        // of requests that bring none
	Poll    bool          // look at the ring without a pause, instead of waiting for calls
	Timeout time.Duration // for one request; 0: 10 s

	mem      *Memory
	queue    int
	indirect bool           // the device has INDIRECT_DESC
	free     []uint16       // descriptors
	areas    map[int][]area // free ones, by capacity
	tables   []Buffer       // free ones, of Ring.Size descriptors
	pending  map[uint16]*IO // by head
	waiter   *waiter
}

// IO is one request under way.
type IO struct {
	Op     uint32
	Sector uint64
	Data   []byte // to be written, or after a read what was read
	Layout *Layout

	Done    bool
	Status  uint8  // of the device
	Written uint32 // bytes, as the used ring says

	n     int // bytes of data
	raw   bool
	area  area
	table Buffer
	descs []uint16
}

// Driver of a queue. A queue has one at a time.
func (f *Frontend) Driver(queue int) *Driver {
	r := f.rings[queue]
	d := &Driver{Ring: r, mem: f.mem, queue: queue, indirect: f.driverFeatures()&FIndirect != 0,
		areas: map[int][]area{}, pending: map[uint16]*IO{}}
	for i := range r.Size() {
		d.free = append(d.free, uint16(r.Size()-1-i))
	}
	return d
}

// Errors of requests.
var (
	ErrIO          = errors.New("the device answers IOERR")
	ErrUnsupported = errors.New("the device answers UNSUPP")
	ErrHung        = errors.New("the device does not answer")
)

// Err is what a finished request's status means.
func (io *IO) Err() error {
	switch io.Status {
	case StatusOK:
		return nil
	case StatusIOErr:
		return ErrIO
	case StatusUnsupp:
		return ErrUnsupported
	}
	return fmt.Errorf("vhosttest: operation %d at sector %d: status %#x", io.Op, io.Sector, io.Status)
}

// Submit makes requests and publishes them in one step. For reads Data gives the
// length; its memory is not used before the request is done.
func (d *Driver) Submit(ios ...*IO) error {
	for _, io := range ios {
		if err := d.prepare(io); err != nil {
			return err
		}
	}
	if !d.Poll {
		d.Ring.Arm()
	} else {
		d.Ring.Quiet()
	}
	d.Ring.Publish()
	return nil
}

func (d *Driver) prepare(io *IO) error {
	io.n, io.Done = len(io.Data), false
	var err error
	if io.area, err = d.takeArea(io.n); err != nil {
		return err
	}
	io.area.encode(io.Op, io.Sector, io.n)
	if !deviceWrites(io.Op) {
		copy(io.area.payload(io.n), io.Data)
	} else {
		clear(io.area.payload(io.n))
	}
	l := io.Layout
	if l == nil {
		l = &d.Layout
	}
	chain, err := l.chain(nil, &io.area, io.Op, io.n)
	if err != nil {
		return err
	}
	return d.place(io, chain, l.Indirect && d.indirect)
}

// Raw offers a chain as it is, of descriptors that are given numbers here: Next
// counts from 0 in the chain. It is published with the next Submit, or by
// Ring.Publish. Nothing is checked of it but that it comes back.
func (d *Driver) Raw(chain []Desc, indirect bool) (*IO, error) {
	io := &IO{raw: true}
	return io, d.place(io, chain, indirect)
}

// place writes a chain into the descriptor table, or into one of its own, and
// offers it.
func (d *Driver) place(io *IO, chain []Desc, indirect bool) error {
	need := len(chain)
	if indirect {
		need = 1
	}
	if need > len(d.free) || len(chain) > d.Ring.Size() {
		return fmt.Errorf("vhosttest: a chain of %d descriptors, %d of %d are free", len(chain), len(d.free), d.Ring.Size())
	}
	io.descs = append(io.descs[:0], d.free[len(d.free)-need:]...)
	d.free = d.free[:len(d.free)-need]
	if indirect {
		if err := d.placeIndirect(io, chain); err != nil {
			return err
		}
	} else {
		d.placeDirect(io, chain)
	}
	head := io.descs[0]
	d.pending[head] = io
	d.Ring.Offer(head)
	return nil
}

func (d *Driver) placeDirect(io *IO, chain []Desc) {
	if !io.raw {
		link(chain, 0)
	}
	for i, c := range chain {
		if c.Flags&DescNext != 0 && int(c.Next) < len(io.descs) {
			c.Next = io.descs[c.Next]
		}
		d.Ring.SetDesc(io.descs[i], c)
	}
}

func (d *Driver) placeIndirect(io *IO, chain []Desc) (err error) {
	if n := len(d.tables); n > 0 {
		io.table, d.tables = d.tables[n-1], d.tables[:n-1]
	} else if io.table, err = d.mem.Alloc(d.queue+1, descSize*d.Ring.Size(), 16); err != nil {
		return err
	}
	if !io.raw {
		link(chain, 0)
	}
	for i, c := range chain {
		putDesc(io.table.B[i*descSize:], c)
	}
	d.Ring.SetDesc(io.descs[0], Desc{Addr: io.table.Addr, Len: uint32(len(chain) * descSize), Flags: DescIndirect})
	return nil
}

func putDesc(b []byte, c Desc) {
	le.PutUint64(b, c.Addr)
	le.PutUint32(b[8:], c.Len)
	le.PutUint16(b[12:], c.Flags)
	le.PutUint16(b[14:], c.Next)
}

// takeArea reuses memory of the same size class.
func (d *Driver) takeArea(n int) (area, error) {
	class := pageSize
	for class < n {
		class *= 2
	}
	if list := d.areas[class]; len(list) > 0 {
		d.areas[class] = list[:len(list)-1]
		return list[len(list)-1], nil
	}
	return newArea(d.mem, d.queue+1, class)
}

// Collect takes the completions that are there and gives their number.
func (d *Driver) Collect() (int, error) {
	var done [32]Completion
	for total := 0; ; {
		n, err := d.Ring.Reap(done[:])
		for _, c := range done[:n] {
			if e := d.finish(c); err == nil {
				err = e
			}
		}
		if total += n; n == 0 || err != nil {
			return total, err
		}
	}
}

// finish judges a completion and gives its descriptors and memory back.
func (d *Driver) finish(c Completion) error {
	io := d.pending[c.Head]
	if io == nil {
		return fmt.Errorf("vhosttest: head %d comes back, which is not the head of a chain", c.Head)
	}
	delete(d.pending, c.Head)
	d.free = append(d.free, io.descs...)
	io.Done, io.Written = true, c.Written
	if io.table.B != nil {
		d.tables = append(d.tables, io.table)
		io.table = Buffer{}
	}
	if io.raw {
		return nil
	}
	io.Status = *io.area.status(io.n)
	writable := 1
	if deviceWrites(io.Op) {
		writable += io.n
		copy(io.Data, io.area.payload(io.n))
	}
	class := io.area.capacity()
	d.areas[class] = append(d.areas[class], io.area)
	return judge(io.Op, io.Status, c.Written, uint32(writable))
}

// judge says what is wrong with a completion: a status that was not written, or
// a length that cannot be (virtio 1.2, 2.7.8.2: all that was written counts). A
// device that writes the status alone may say 1.
func judge(op uint32, status uint8, written, writable uint32) error {
	switch {
	case status == statusUnset:
		return fmt.Errorf("vhosttest: operation %d came back without a status", op)
	case written > writable:
		return fmt.Errorf("vhosttest: operation %d came back with %d bytes written to %d", op, written, writable)
	case written == 0:
		return fmt.Errorf("vhosttest: operation %d came back with a status and no byte written", op)
	case op == OpIn && status == StatusOK && written != writable:
		return fmt.Errorf("vhosttest: a read that succeeded came back with %d bytes written of %d", written, writable)
	}
	return nil
}

// Wait takes completions until all of ios are done.
func (d *Driver) Wait(ios ...*IO) error {
	timeout := d.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	for deadline := sys.Nanotime() + int64(timeout); ; {
		if _, err := d.Collect(); err != nil {
			return err
		}
		left := 0
		for _, io := range ios {
			if !io.Done {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if sys.Nanotime() > deadline {
			return fmt.Errorf("vhosttest: %d of %d requests: %w within %v", left, len(ios), ErrHung, timeout)
		}
		if err := d.pause(); err != nil {
			return err
		}
	}
}

// pause waits for a call, a little.
func (d *Driver) pause() error {
	if d.Poll || d.Ring.Arm() {
		return nil
	}
	if d.waiter == nil {
		w, err := newWaiter(d.Ring.call)
		if err != nil {
			return err
		}
		d.waiter = w
	}
	_, err := d.waiter.wait(50)
	return err
}

// Close gives back what waiting needed. The ring's memory stays.
func (d *Driver) Close() {
	if d.waiter != nil {
		d.waiter.close()
		d.waiter = nil
	}
}

// Do makes one request and waits for it; its error is that of the status.
func (d *Driver) Do(io *IO) error {
	err := d.Submit(io)
	if err == nil {
		err = d.Wait(io)
	}
	if err == nil {
		err = io.Err()
	}
	return err
}

// Read n bytes at a sector.
func (d *Driver) Read(sector uint64, n int) ([]byte, error) {
	io := &IO{Op: OpIn, Sector: sector, Data: make([]byte, n)}
	err := d.Do(io)
	return io.Data, err
}

// Write b at a sector.
func (d *Driver) Write(sector uint64, b []byte) error {
	return d.Do(&IO{Op: OpOut, Sector: sector, Data: b})
}

// Flush the device's cache.
func (d *Driver) Flush() error { return d.Do(&IO{Op: OpFlush}) }

// ID is what GET_ID gives, with the zeroes at its end.
func (d *Driver) ID() ([]byte, error) {
	io := &IO{Op: OpGetID, Data: make([]byte, IDSize)}
	err := d.Do(io)
	return io.Data, err
}

// Range of a DISCARD or WRITE_ZEROES (virtio 1.2, 5.2.6).
type Range struct {
	Sector  uint64
	Sectors uint32
	Flags   uint32 // 1: unmap
}

// Discard ranges.
func (d *Driver) Discard(ranges ...Range) error {
	return d.Do(&IO{Op: OpDiscard, Data: encodeRanges(ranges)})
}

// WriteZeroes to ranges.
func (d *Driver) WriteZeroes(ranges ...Range) error {
	return d.Do(&IO{Op: OpWriteZeroes, Data: encodeRanges(ranges)})
}

func encodeRanges(ranges []Range) []byte {
	var b []byte
	for _, r := range ranges {
		b = le.AppendUint64(b, r.Sector)
		b = le.AppendUint32(le.AppendUint32(b, r.Sectors), r.Flags)
	}
	return b
}

package worker

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
	"blockengine/sdk/store"
)

// slot is a place for one request. The engine has as many as a region has buffers.
type slot struct {
	req     block.Request // Owner is the slot
	index   uint16
	held    bool // the plugin has it
	buffer  []byte
	data    [][]byte       // of the request, if it has payload
	in      []*mapped      // what a payload lies in that is not in the buffer
	extents []block.Extent // over the buffer
}

// storeServer is a channel of a store plugin's over a region, and its Completer.
type storeServer struct {
	w       *Worker
	channel store.Channel
	slots   []slot
	batch   []*block.Request
	inline  []*block.Request // completed within Submit

	// out is how many requests the plugin holds. It is also what lets a slot be
	// used again after a goroutine of the plugin's has posted it.
	out atomic.Int32

	// mu guards the completion ring and idle. Nothing of the
	// plugin's is called while it is held.
	mu   sync.Mutex
	tail uint32        // completions so far
	idle chan struct{} // closed when nothing is out; nil: nobody waits
}

// Channel opens a channel of dev and serves the region from now on. The
// descriptors are the worker's, also if it fails.
func Channel(dev store.Device, f Files, l ring.Layout, o Options) (*Worker, error) {
	if l.Kind != ring.KindStore {
		f.close()
		return nil, fmt.Errorf("a region of kind %d came for a disk: %d", l.Kind, ring.KindStore)
	}
	w, err := newWorker(f, l, o)
	if err != nil {
		return nil, err
	}
	s := newStoreServer(w)
	opened := make(chan error, 1)
	go s.run(dev, opened)
	if err := <-opened; err != nil {
		w.free()
		dropWorker()
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	return w, nil
}

func newStoreServer(w *Worker) *storeServer {
	depth := len(w.region.Submissions)
	s := &storeServer{w: w, slots: make([]slot, depth), batch: make([]*block.Request, 0, depth), inline: make([]*block.Request, 0, depth)}
	for i := range s.slots {
		sl := &s.slots[i]
		sl.index, sl.buffer = uint16(i), w.region.Buffer(i)
		sl.data = make([][]byte, 0, 1)
		ext := w.region.Extents(i)
		sl.extents = unsafe.Slice((*block.Extent)(unsafe.Pointer(unsafe.SliceData(ext))), len(ext))[:0]
		sl.req.Owner = sl
	}
	return s
}

// block.Extent lies in memory as ring.Extent does.
var (
	_ [unsafe.Sizeof(ring.Extent{})]byte         = [unsafe.Sizeof(block.Extent{})]byte{}
	_ [unsafe.Offsetof(ring.Extent{}.State)]byte = [unsafe.Offsetof(block.Extent{}.State)]byte{}
)

// run is the goroutine that all methods of the channel are called on.
func (s *storeServer) run(dev store.Device, opened chan<- error) {
	var err error
	s.channel, err = dev.Channel(s)
	opened <- err
	if err == nil {
		debug.SetPanicOnFault(true)
		defer s.w.memory.explain()
		s.w.run(s)
	}
}

// serve hands what has been submitted to the plugin, in one batch.
func (s *storeServer) serve(tail uint32) {
	w := s.w
	if n := tail - w.taken; n > uint32(len(s.slots)) {
		panic(fmt.Sprintf("the engine has submitted %d requests at once, and there are %d slots", n, len(s.slots)))
	}
	// This comes before the requests are touched: see out.
	s.out.Add(int32(tail - w.taken))
	batch := s.batch[:0]
	for ; w.taken != tail; w.taken++ {
		batch = append(batch, s.request(&w.region.Submissions[w.taken&uint32(len(s.slots)-1)]))
	}
	w.region.SubHead.Store(tail)
	s.channel.Submit(batch)
	s.publish(s.inline, true)
	s.inline = s.inline[:0]
}

// request makes a request of what is in the ring.
func (s *storeServer) request(e *ring.Submission) *block.Request {
	sl := &s.slots[e.Slot]
	sl.held = true
	r := &sl.req
	r.Op, r.Flags, r.Offset, r.Length = block.Op(e.Op), block.Flags(e.Flags), e.Offset, e.Length
	r.Status, r.Filled, r.Data, r.Extents = block.OK, 0, nil, nil
	switch {
	case e.Pieces > 0:
		s.borrow(sl, int(e.Pieces))
	case r.Op.HasPayload():
		sl.data = append(sl.data[:0], sl.buffer[:r.Length:r.Length])
		r.Data = sl.data
	case r.Op == block.OpBlockStatus:
		r.Extents = sl.extents
	}
	return r
}

// borrow points a request at memory of a virtual machine's. The engine is trusted:
// what is wrong is a fault of its own.
func (s *storeServer) borrow(sl *slot, n int) {
	pieces := s.w.region.Pieces(int(sl.index))
	if n > len(pieces) {
		panic(fmt.Sprintf("the engine has submitted a request of %d pieces: at most %d", n, len(pieces)))
	}
	var err error
	if sl.data, sl.in, err = s.w.memory.borrow(pieces[:n], sl.data[:0], sl.in[:0]); err != nil {
		panic(err.Error())
	}
	sl.req.Data = sl.data
}

// giveBack ends the loan of what borrow has pointed at.
func (sl *slot) giveBack() {
	for i, a := range sl.in {
		a.leave()
		sl.in[i] = nil
	}
	clear(sl.data)
	sl.in, sl.data, sl.req.Data = sl.in[:0], sl.data[:0], nil
}

// together is how many completions of a batch are published in one go. An engine
// that is looking deals with them while the plugin does the rest of the batch; one
// that sleeps is woken when all of it is done.
const together = 16

// Complete implements store.Completer.
func (s *storeServer) Complete(r *block.Request) {
	if s.inline = append(s.inline, r); len(s.inline) == together {
		s.publish(s.inline, false)
		s.inline = s.inline[:0]
	}
}

// Post implements store.Completer.
func (s *storeServer) Post(batch []*block.Request) {
	if len(batch) > 0 {
		s.publish(batch, true)
	}
}

// publish puts results into the ring, all at once.
func (s *storeServer) publish(batch []*block.Request, wake bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch {
		s.finished(r)
	}
	// The requests are read; from the next store on the engine may use the slots
	// again.
	out := s.out.Add(-int32(len(batch)))
	s.w.region.CompTail.Swap(s.tail) // see ring: not Store
	if wake {                        // with mu held: without it the region may go
		s.w.wakeEngine()
	}
	if out == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// finished puts the result of r into the ring.
func (s *storeServer) finished(r *block.Request) {
	sl, ok := r.Owner.(*slot)
	if !ok || &sl.req != r {
		panic("the plugin has completed a request that it was not given: hand back the *block.Request that Submit got, with Owner as it was")
	}
	if !sl.held {
		panic(fmt.Sprintf("the plugin has completed a request twice: %v of %d bytes at %d", r.Op, r.Length, r.Offset))
	}
	sl.held = false
	if len(sl.in) > 0 {
		sl.giveBack()
	}
	c := ring.Completion{Slot: sl.index, Status: uint32(r.Status), Filled: r.Filled}
	if r.Op == block.OpBlockStatus {
		// They are in the buffer already, unless the plugin has made a slice of its own.
		c.Extents = uint16(copy(sl.extents[:cap(sl.extents)], r.Extents))
	}
	s.w.region.Completions[s.tail&uint32(len(s.slots)-1)] = c
	s.tail++
}

// finish waits until the plugin holds nothing, and closes the channel.
func (s *storeServer) finish() {
	if idle := s.whenIdle(); idle != nil {
		<-idle
	}
	s.channel.Close()
}

// whenIdle gives what is closed when the plugin holds nothing; nil: it is so now.
func (s *storeServer) whenIdle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.Load() == 0 {
		return nil
	}
	s.idle = make(chan struct{})
	return s.idle
}

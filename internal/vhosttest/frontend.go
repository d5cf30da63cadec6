package vhosttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/sys"
)

// Options of a Frontend.
type Options struct {
	Socket          string
	Listen          bool          // wait at Socket for the back-end to connect, instead of connecting
	Personality     *Personality  // nil: QEMU
	Queues          int           // 0: one
	QueueSize       uint16        // a power of two from 2 to MaxQueueSize; 0: 128
	Memory          []Slot        // nil: DefaultMemory
	Sealed          bool          // its files cannot be truncated
	Without         uint64        // features not to be used
	WithoutProtocol uint64        // protocol features not to be used
	Redial          time.Duration // 0: as the personality does, or every 100 ms if it never does
	Timeout         time.Duration // for one reply; 0: 10 s

	// Trace gets a line for each message sent.
	Trace func(format string, args ...any)
}

func (o *Options) complete() error {
	if o.Personality == nil {
		o.Personality = QEMU()
	}
	p := o.Personality
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.QueueSize == 0 {
		o.QueueSize = 128
	}
	if o.Memory == nil {
		o.Memory = DefaultMemory()
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Redial == 0 {
		o.Redial = p.Redial
	}
	if o.Redial == 0 {
		o.Redial = 100 * time.Millisecond
	}
	switch {
	case o.Queues < 1 || o.Queues > p.MaxQueues:
		return fmt.Errorf("vhosttest: %d queues: %s has 1 to %d", o.Queues, p.Name, p.MaxQueues)
	case o.QueueSize < 2 || int(o.QueueSize) > p.MaxQueueSize || o.QueueSize&(o.QueueSize-1) != 0:
		return fmt.Errorf("vhosttest: queues of %d: %s uses powers of two from 2 to %d", o.QueueSize, p.Name, p.MaxQueueSize)
	}
	return nil
}

// Frontend is a machine with one vhost-user disk.
type Frontend struct {
	o        Options
	p        *Personality
	listener *net.UnixListener

	mem   *Memory
	rings []*Ring
	bases []uint16 // of the rings, for SET_VRING_BASE
	using int      // queues that the driver uses, from the first on

	failed int // an event for errors of queues

	conn            atomic.Pointer[Conn]
	offered         uint64 // features of the back-end
	features        uint64 // of those, what is used
	protocolOffered uint64
	protocol        uint64
	acking          bool // REPLY_ACK was negotiated, and the back-end knows
	firmware        bool // the driver of the moment is a firmware
	started         bool
	added           int // regions that the back-end has been given one by one
	config          []byte

	inflight   InflightInfo
	inflightFD int

	channelMu sync.Mutex // guards channel
	channel   *net.UnixConn
	channels  sync.WaitGroup
	changes   chan struct{} // a token for each change of the configuration
}

// Open makes a machine, connects it and starts its disk. If the back-end is not
// there yet it waits, until ctx ends.
func Open(ctx context.Context, o Options) (*Frontend, error) {
	f, err := Make(o)
	if err != nil {
		return nil, err
	}
	if err = f.Connect(ctx); err == nil {
		err = f.boot()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Make makes a machine that is not connected.
func Make(o Options) (*Frontend, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	f := &Frontend{o: o, p: o.Personality, inflightFD: -1, failed: -1,
		using: o.Queues, bases: make([]uint16, o.Queues), changes: make(chan struct{}, 64)}
	if err := f.build(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Frontend) build() (err error) {
	if f.mem, err = NewMemory(f.o.Memory, f.p.GuestIsUser, f.o.Sealed); err != nil {
		return err
	}
	for i := range f.o.Queues {
		r, err := newRing(f.mem, i, f.o.QueueSize)
		if r != nil {
			f.rings = append(f.rings, r)
		}
		if err != nil {
			return err
		}
	}
	if f.failed, err = sys.Eventfd(); err != nil {
		return err
	}
	if f.o.Listen {
		f.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: f.o.Socket, Net: "unix"})
	}
	return err
}

// Close ends the connection, if there is one, and gives all memory back. Nobody
// uses a ring or a buffer any more.
func (f *Frontend) Close() {
	f.Hangup()
	if f.listener != nil {
		f.listener.Close()
	}
	for _, r := range f.rings {
		r.close()
	}
	if f.failed >= 0 {
		sys.Close(f.failed)
	}
	f.forgetInflight()
	if f.mem != nil {
		f.mem.Close()
	}
}

// Hangup ends the connection without a word; Redial makes another one.
func (f *Frontend) Hangup() {
	if c := f.conn.Load(); c != nil {
		c.Close()
	}
	f.channelMu.Lock()
	if f.channel != nil {
		f.channel.Close()
		f.channel = nil
	}
	f.channelMu.Unlock()
	f.channels.Wait()
	f.started = false
}

// Connect connects and negotiates; no ring runs yet. While nobody is there it
// tries again every Options.Redial.
func (f *Frontend) Connect(ctx context.Context) error { return f.connect(ctx, false) }

func (f *Frontend) connect(ctx context.Context, again bool) error {
	for {
		if err := f.reach(ctx); err != nil {
			return err
		}
		err := f.p.connect(f, again)
		if err == nil || !errors.Is(err, ErrLost) || !again {
			return err
		}
		// It died while we talked: a monitor that redials does so again.
		if err := f.rest(ctx); err != nil {
			return err
		}
	}
}

// reach makes a connection and says nothing.
func (f *Frontend) reach(ctx context.Context) error {
	f.Hangup()
	for {
		sock, err := f.meet(ctx)
		if err != nil {
			return err
		}
		if sock != nil {
			f.conn.Store(newConn(sock, f.o.Timeout))
			f.added, f.acking = 0, false
			return nil
		}
		if err := f.rest(ctx); err != nil {
			return err
		}
	}
}

// rest waits until it is time for another attempt.
func (f *Frontend) rest(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("vhosttest: no back-end at %s: %w", f.o.Socket, context.Cause(ctx))
	case <-time.After(f.o.Redial):
		return nil
	}
}

// meet makes one attempt at a connection; none is no error.
func (f *Frontend) meet(ctx context.Context) (*net.UnixConn, error) {
	if f.listener == nil {
		c, err := net.DialTimeout("unix", f.o.Socket, f.o.Timeout)
		if err != nil {
			return nil, nil
		}
		return c.(*net.UnixConn), nil
	}
	deadline, _ := ctx.Deadline()
	f.listener.SetDeadline(deadline)
	unwatch := context.AfterFunc(ctx, func() { f.listener.SetDeadline(time.Unix(1, 0)) })
	defer unwatch()
	c, err := f.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("vhosttest: no back-end came to %s: %w", f.o.Socket, errors.Join(context.Cause(ctx), err))
	}
	return c, nil
}

// boot starts the disk as a machine does that is switched on.
func (f *Frontend) boot() error {
	if f.p.FirmwareFirst {
		if err := f.bootFirmware(); err != nil {
			return fmt.Errorf("firmware: %w", err)
		}
	}
	return f.Start()
}

// bootFirmware reads the first sector and stops the disk.
func (f *Frontend) bootFirmware() error {
	f.firmware, f.using = true, 1
	err := f.Start()
	if err == nil && f.Sectors() > 0 {
		d := f.Driver(0)
		d.Poll = true
		_, err = d.Read(0, SectorSize)
	}
	if err == nil {
		err = f.Stop()
	}
	f.firmware, f.using = false, f.o.Queues
	f.Reset()
	return err
}

// Reset forgets the state of the rings and the in-flight region, as a reset by
// the guest does. The disk is stopped.
func (f *Frontend) Reset() {
	for i, r := range f.rings {
		r.reset(f.driverFeatures()&FEventIdx != 0)
		f.bases[i] = 0
	}
	f.forgetInflight()
}

// Start starts the disk: where it was stopped, or after a Reset from new.
func (f *Frontend) Start() error {
	for i, r := range f.rings[:f.using] {
		if f.bases[i] == 0 && r.published == 0 && r.next == 0 {
			r.reset(f.driverFeatures()&FEventIdx != 0)
		}
	}
	if err := f.p.start(f); err != nil {
		return fmt.Errorf("%s: start: %w", f.p.Name, err)
	}
	f.started = true
	return nil
}

// Stop stops the disk and keeps the rings. All requests have been finished by
// then, or there is an error.
func (f *Frontend) Stop() error {
	f.started = false
	if f.p.stop == nil {
		return fmt.Errorf("vhosttest: %s never stops a disk", f.p.Name)
	}
	if err := f.p.stop(f); err != nil {
		return fmt.Errorf("%s: stop: %w", f.p.Name, err)
	}
	return nil
}

// Redial connects again after a back-end was lost, and starts the rings where
// they are, with the in-flight region that was. It tries until ctx ends. Rings
// may be in use by their goroutines meanwhile.
func (f *Frontend) Redial(ctx context.Context) error {
	for {
		err := f.connect(ctx, true)
		if err == nil {
			err = f.resume()
		}
		if err == nil || !errors.Is(err, ErrLost) || ctx.Err() != nil {
			return err
		}
	}
}

func (f *Frontend) resume() error {
	for i, r := range f.rings[:f.using] {
		f.bases[i] = f.p.Base(r)
		if f.p.KicksLost {
			sys.EventfdClear(r.kick)
		}
	}
	if err := f.p.start(f); err != nil {
		return fmt.Errorf("%s: restart: %w", f.p.Name, err)
	}
	f.started = true
	return nil
}

// Plug adds memory while the disk runs, as hot-plug does, and tells the back-end
// the way that was negotiated: the region alone, or the whole table again.
func (f *Frontend) Plug(s Slot) error {
	if err := f.mem.add(s); err != nil {
		return fmt.Errorf("vhosttest: plug memory: %w", err)
	}
	r := f.mem.regions[len(f.mem.regions)-1]
	if f.protocol&PConfigureMemSlots == 0 {
		return f.setMemTable()
	}
	f.added = len(f.mem.regions)
	return f.tell(AddMemReg, r.append(u64s(0)), r.fd)
}

// Lost is closed when the connection of the moment has ended.
func (f *Frontend) Lost() <-chan struct{} { return f.conn.Load().Lost() }

// Conn is the connection of the moment, for messages of one's own. Nothing else
// may use it meanwhile.
func (f *Frontend) Conn() *Conn { return f.conn.Load() }

// Memory of the guest.
func (f *Frontend) Memory() *Memory { return f.mem }

// Ring of a queue.
func (f *Frontend) Ring(i int) *Ring { return f.rings[i] }

// Queues is how many there are.
func (f *Frontend) Queues() int { return len(f.rings) }

// Offered and Features are the back-end's features and those of them in use;
// ProtocolOffered and Protocol the same of the protocol's.
func (f *Frontend) Offered() uint64         { return f.offered }
func (f *Frontend) Features() uint64        { return f.features }
func (f *Frontend) ProtocolOffered() uint64 { return f.protocolOffered }
func (f *Frontend) Protocol() uint64        { return f.protocol }

// Failed says whether the back-end has signalled an error of a queue
// (SET_VRING_ERR; QEMU alone sets that).
func (f *Frontend) Failed() bool { return takeEvent(f.failed) }

// Inflight describes the in-flight region and gives a mapping of it, which the
// caller unmaps (sys.Unmap); nil if there is none.
func (f *Frontend) Inflight() (InflightInfo, []byte, error) {
	if f.inflightFD < 0 {
		return InflightInfo{}, nil, nil
	}
	b, err := sys.MapShared(f.inflightFD, int64(f.inflight.Offset), int(f.inflight.Size))
	return f.inflight, b, err
}

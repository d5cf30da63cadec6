package vhosttest

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/sys"
	"blockengine/internal/nbdtest"
)

// device is a back-end as simple as can be, that does wrong what a test tells it
// to: the judge has to be judged too. Its disk is memory.
type device struct {
	t        testing.TB
	socket   string
	offers   uint64 // features
	protocol uint64
	disk     []byte

	// spoil may change what is done with a chain. It gives used elements.
	spoil  func(head uint16, written uint32) []usedElem
	silent bool // never calls
	// mute chains come back without a status.
	mute bool
	lazy bool // fills no read

	mu       sync.Mutex // guards what follows
	seen     []Request
	bases    []uint32
	inflight []InflightInfo // of SET_INFLIGHT_FD
	backend  int            // the channel to the front-end; -1: none
	config   []byte
	sock     *net.UnixConn
	idle     bool // no connection is served
	serving  sync.WaitGroup
}

func newDevice(t testing.TB) *device {
	d := &device{t: t, socket: filepath.Join(nbdtest.SocketDir(t), "dev"), backend: -1, disk: make([]byte, mib),
		offers:   QEMU().Features,
		protocol: PMQ | PReplyAck | PBackendReq | PConfig | PInflight | PConfigureMemSlots | PStatus}
	d.config = make([]byte, 256)
	le.PutUint64(d.config, mib/SectorSize)
	return d
}

// listen serves one connection after the other.
func (d *device) listen() {
	d.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.socket, Net: "unix"})
	must(d.t, err)
	d.serving.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			d.serve(c)
		}
	})
	d.t.Cleanup(func() {
		l.Close()
		d.hangup()
		d.serving.Wait()
	})
}

// connect serves a connection to a front-end that listens.
func (d *device) connect() {
	d.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.socket, Net: "unix"})
	must(d.t, err)
	d.serving.Go(func() { d.serve(c) })
	d.t.Cleanup(func() {
		c.Close()
		d.serving.Wait()
	})
}

// hangup ends the connection of the moment.
func (d *device) hangup() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sock != nil {
		d.sock.Close()
	}
}

func (d *device) requests() []Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.seen)
}

// session is one connection of a device.
type session struct {
	d       *device
	regions []MemRegion
	maps    [][]byte
	vrings  [8]vring
	acks    bool
}

type vring struct {
	s                 *session
	num, base         uint32
	desc, avail, used []byte
	kick, call        int
	callMu            sync.Mutex // guards call, which may change while the ring runs
	stop              chan struct{}
	stopped           chan struct{}
}

func (d *device) serve(c *net.UnixConn) {
	d.mu.Lock()
	d.sock, d.idle = c, false
	d.mu.Unlock()
	s := &session{d: d}
	for i := range s.vrings {
		v := &s.vrings[i]
		v.s, v.kick, v.call = s, -1, -1
	}
	for {
		m, err := readMessage(c)
		if err != nil {
			break
		}
		d.mu.Lock()
		d.seen = append(d.seen, m.Request)
		d.mu.Unlock()
		reply, fds := s.handle(m)
		if reply == nil && s.acks && m.Flags&FlagNeedReply != 0 {
			reply = u64s(0)
		}
		if m.Request == SetProtocolFeatures {
			s.acks = le.Uint64(m.Payload)&PReplyAck != 0
		}
		if reply == nil {
			continue
		}
		out := Message{Request: m.Request, Flags: FlagVersion | FlagReply, Payload: reply}
		var oob []byte
		if len(fds) > 0 {
			oob = syscall.UnixRights(fds...)
		}
		c.WriteMsgUnix(out.encode(), oob, nil)
		closeAll(fds)
	}
	c.Close()
	s.end()
	d.mu.Lock()
	d.idle = true
	d.mu.Unlock()
}

func (s *session) end() {
	for i := range s.vrings {
		s.vrings[i].halt()
		closeAll([]int{s.vrings[i].kick, s.vrings[i].call})
	}
	for _, m := range s.maps {
		sys.Unmap(m)
	}
}

// handle carries a message out and gives the payload of its own reply.
func (s *session) handle(m Message) (reply []byte, fds []int) {
	d := s.d
	num := func() uint64 { return le.Uint64(m.Payload) }
	q := func() *vring { return &s.vrings[le.Uint32(m.Payload)&7] }
	switch m.Request {
	case GetFeatures:
		return u64s(d.offers), nil
	case GetProtocolFeatures:
		return u64s(d.protocol), nil
	case GetQueueNum, GetMaxMemSlots:
		return u64s(8), nil
	case GetStatus:
		return u64s(0), nil
	case GetConfig:
		d.mu.Lock()
		defer d.mu.Unlock()
		at, n := le.Uint32(m.Payload), le.Uint32(m.Payload[4:])
		return append(slices.Clone(m.Payload[:12]), d.config[at:at+n]...), nil
	case GetInflightFD:
		fd, err := sys.Memfd("inflight", 4096)
		if err != nil {
			d.t.Error(err)
		}
		return InflightInfo{Size: 4096, Queues: 8, Num: 8}.encode(), []int{fd}
	case SetInflightFD:
		info, _ := decodeInflight(m.Payload)
		d.mu.Lock()
		d.inflight = append(d.inflight, info)
		d.mu.Unlock()
		closeAll(m.FDs)
	case SetMemTable:
		for i, fd := range m.FDs {
			s.addRegion(m.Payload[8+32*i:], fd)
		}
	case AddMemReg:
		s.addRegion(m.Payload[8:], m.FDs[0])
	case SetBackendReqFD:
		d.mu.Lock()
		d.backend = m.FDs[0]
		d.mu.Unlock()
		d.t.Cleanup(func() { syscall.Close(m.FDs[0]) })
	case SetVringErr:
		closeAll(m.FDs)
	case SetVringCall:
		v := &s.vrings[num()&7]
		v.callMu.Lock()
		closeAll([]int{v.call})
		v.call = m.FDs[0]
		v.callMu.Unlock()
	case SetVringNum:
		q().num = le.Uint32(m.Payload[4:])
	case SetVringBase:
		q().base = le.Uint32(m.Payload[4:])
		d.mu.Lock()
		d.bases = append(d.bases, q().base)
		d.mu.Unlock()
	case SetVringAddr:
		v := q()
		v.desc, v.used, v.avail = s.user(le.Uint64(m.Payload[8:])), s.user(le.Uint64(m.Payload[16:])), s.user(le.Uint64(m.Payload[24:]))
	case SetVringKick:
		v := &s.vrings[num()&7]
		closeAll([]int{v.kick})
		v.kick = m.FDs[0]
		v.begin()
	case GetVringBase:
		v := q()
		v.halt()
		return vringState(int(le.Uint32(m.Payload)), v.base), nil
	}
	return nil, nil
}

func (s *session) addRegion(b []byte, fd int) {
	r := MemRegion{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}
	m, err := sys.MapShared(fd, int64(r.Offset), int(r.Size))
	if err != nil {
		s.d.t.Error(err)
		return
	}
	syscall.Close(fd)
	s.regions, s.maps = append(s.regions, r), append(s.maps, m)
}

func (s *session) user(addr uint64) []byte {
	for i, r := range s.regions {
		if addr >= r.User && addr < r.User+r.Size {
			return s.maps[i][addr-r.User:]
		}
	}
	s.d.t.Errorf("no region has the user address %#x", addr)
	return nil
}

func (s *session) guest(addr uint64, n uint32) []byte {
	for i, r := range s.regions {
		if addr >= r.Guest && addr+uint64(n) <= r.Guest+r.Size {
			return s.maps[i][addr-r.Guest:][:n]
		}
	}
	s.d.t.Errorf("no region has the guest address %#x", addr)
	return make([]byte, n)
}

func (v *vring) begin() {
	v.halt()
	stop, stopped := make(chan struct{}), make(chan struct{})
	v.stop, v.stopped = stop, stopped
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if !v.turn() {
				time.Sleep(50 * time.Microsecond)
			}
		}
	}()
}

func (v *vring) halt() {
	if v.stop != nil {
		close(v.stop)
		<-v.stopped
		v.stop = nil
	}
}

// turn serves what is in the available ring.
func (v *vring) turn() bool {
	avail, used := (*uint32)(unsafe.Pointer(&v.avail[0])), (*uint32)(unsafe.Pointer(&v.used[0]))
	idx := uint16(atomic.LoadUint32(avail) >> 16)
	if idx == uint16(v.base) {
		return false
	}
	at := uint16(atomic.LoadUint32(used) >> 16)
	for ; uint16(v.base) != idx; v.base++ {
		head := le.Uint16(v.avail[4+2*(v.base&(v.num-1)):])
		written := v.execute(head)
		elems := []usedElem{{uint32(head), written}}
		if v.s.d.spoil != nil {
			elems = v.s.d.spoil(head, written)
		}
		for _, e := range elems {
			b := v.used[4+8*(uint32(at)&(v.num-1)):]
			le.PutUint32(b, e.id)
			le.PutUint32(b[4:], e.len)
			at++
		}
	}
	v.base &= 0xffff
	atomic.StoreUint32(used, uint32(at)<<16)
	if !v.s.d.silent {
		v.callMu.Lock()
		sys.EventfdSignal(v.call)
		v.callMu.Unlock()
	}
	return true
}

// execute does what a chain asks for and gives the bytes written.
func (v *vring) execute(head uint16) uint32 {
	var read, write []byte // copies of what can be read; places for what is written
	var places [][]byte
	table, i := v.desc, uint32(head)
	for {
		b := table[16*i:]
		addr, n, flags, next := le.Uint64(b), le.Uint32(b[8:]), le.Uint16(b[12:]), le.Uint16(b[14:])
		if flags&DescIndirect != 0 {
			table, i = v.s.guest(addr, n), 0
			continue
		}
		p := v.s.guest(addr, n)
		if flags&DescWrite == 0 {
			read = append(read, p...)
		} else {
			places = append(places, p)
		}
		if flags&DescNext == 0 {
			break
		}
		i = uint32(next)
	}
	total := 0
	for _, p := range places {
		total += len(p)
	}
	write = make([]byte, total)
	v.operate(read, write[:total-1])
	if last := places[len(places)-1]; v.s.d.lazy && le.Uint32(read) == OpIn {
		places, write = [][]byte{last[len(last)-1:]}, write[total-1:]
	}
	for _, p := range places {
		n := copy(p, write)
		write = write[n:]
	}
	if last := places[len(places)-1]; v.s.d.mute {
		last[len(last)-1] = statusUnset
	}
	return uint32(total)
}

// operate reads or writes the disk.
func (v *vring) operate(read, write []byte) {
	at := le.Uint64(read[8:]) * SectorSize
	v.s.d.mu.Lock()
	defer v.s.d.mu.Unlock()
	switch le.Uint32(read) {
	case OpIn:
		copy(write, v.s.d.disk[at:])
	case OpOut:
		copy(v.s.d.disk[at:], read[headerLen:])
	}
}

// resize changes the capacity and tells the front-end.
func (d *device) resize(sectors uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	le.PutUint64(d.config, sectors)
	f := os.NewFile(uintptr(d.backend), "channel")
	d.backend = -1
	f.Write((&Message{Request: ConfigChange, Flags: FlagVersion | FlagNeedReply}).encode())
	b := make([]byte, headerSize+8)
	if _, err := f.Read(b); err != nil || le.Uint32(b[4:]) != FlagVersion|FlagReply || le.Uint64(b[headerSize:]) != 0 {
		d.t.Errorf("the front-end answers CONFIG_CHANGE_MSG with %x, %v", b, err)
	}
}

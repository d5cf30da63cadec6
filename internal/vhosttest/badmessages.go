package vhosttest

import (
	"fmt"
	"math"
	"syscall"
	"time"

	"blockengine/engine/sys"
)

// BadMessages are misdeeds on the socket.
func BadMessages() []*Misdeed {
	var all []*Misdeed
	for _, list := range [][]*Misdeed{badHeaders(), badEnds(), badMemory(), badVrings(), badConfigs(), badInflights(), badOrders()} {
		all = append(all, list...)
	}
	return all
}

func badHeaders() []*Misdeed {
	raw := func(b ...uint32) func(*Frontend) error {
		return func(f *Frontend) error {
			var bytes []byte
			for _, n := range b {
				bytes = le.AppendUint32(bytes, n)
			}
			return f.Conn().SendRaw(bytes, nil)
		}
	}
	features := uint32(GetFeatures)
	return []*Misdeed{
		{Name: "header: version 0", Fatal: true, fresh: true, do: raw(features, 0, 0)},
		{Name: "header: version 2", Fatal: true, fresh: true, do: raw(features, 2, 0)},
		{Name: "header: a reply from the front-end", Fatal: true, fresh: true, do: raw(features, FlagVersion|FlagReply, 0)},
		{Name: "header: unknown flags", Fatal: true, fresh: true, do: raw(features, FlagVersion|0xfffffff0, 0)},
		{Name: "header: request 0", Fatal: true, fresh: true, do: raw(0, FlagVersion, 0)},
		{Name: "header: request 250", Fatal: true, fresh: true, do: raw(250, FlagVersion, 0)},
		{Name: "header: a payload of 4 GiB", Fatal: true, fresh: true, do: raw(uint32(SetFeatures), FlagVersion, math.MaxUint32)},
		{Name: "header: a payload where none belongs", Fatal: true, fresh: true, do: raw(features, FlagVersion, 8, 1, 2)},
		{Name: "header: too short a payload", Fatal: true, fresh: true, do: raw(uint32(SetFeatures), FlagVersion, 4, 0)},
		{Name: "header: too long a payload", Fatal: true, fresh: true, do: raw(uint32(SetFeatures), FlagVersion, 16, 0, 0, 0, 0)},
		{Name: "header: byte by byte", Legal: true, fresh: true, do: byteByByte},
		{Name: "header: two messages in one piece", Legal: true, fresh: true, do: raw(uint32(SetOwner), FlagVersion, 0, features, FlagVersion, 0)},
		{Name: "descriptors with GET_FEATURES", fresh: true, do: send(Message{Request: GetFeatures, FDs: []int{0, 1}})},
		{Name: "descriptors: 200", fresh: true, do: send(Message{Request: SetOwner, FDs: make([]int, 200)})},
		{Name: "descriptors in the middle of a message", fresh: true, do: lateDescriptors},
	}
}

func byteByByte(f *Frontend) error {
	for _, b := range (&Message{Request: GetFeatures, Flags: FlagVersion}).encode() {
		if err := f.Conn().SendRaw([]byte{b}, nil); err != nil {
			return err
		}
	}
	return nil
}

func lateDescriptors(f *Frontend) error {
	b := (&Message{Request: SetFeatures, Flags: FlagVersion, Payload: u64s(FVersion1)}).encode()
	if err := f.Conn().SendRaw(b[:headerSize+2], nil); err != nil {
		return err
	}
	return f.Conn().SendRaw(b[headerSize+2:], []int{0})
}

func badEnds() []*Misdeed {
	hangUp := func(b []byte, fds ...int) func(*Frontend) error {
		return func(f *Frontend) error {
			if err := f.Conn().SendRaw(b, fds); err != nil {
				return err
			}
			f.Hangup()
			return errLeft
		}
	}
	table := (&Message{Request: SetMemTable, Flags: FlagVersion, Payload: memTable([]MemRegion{{Size: 4096}})}).encode()
	return []*Misdeed{
		{Name: "end: within a header", fresh: true, do: hangUp(table[:5])},
		{Name: "end: within a payload", fresh: true, do: hangUp(table[:20], 0)},
		{Name: "end: within a payload, disk running", do: hangUp(table[:20], 0)},
		{Name: "end: without reading the reply", fresh: true, do: hangUp((&Message{Request: GetFeatures, Flags: FlagVersion}).encode())},
		{Name: "end: with requests outstanding", do: leaveRequests},
		{Name: "questions without end, replies unread", fresh: true, do: neverRead},
	}
}

// leaveRequests hangs up on a full ring.
func leaveRequests(f *Frontend) error {
	d := f.Driver(0)
	for range 32 {
		if err := d.Submit(&IO{Op: OpIn, Data: make([]byte, pageSize)}); err != nil {
			return err
		}
	}
	f.Hangup()
	return errLeft
}

// neverRead asks until the socket is full, or many times, and goes.
func neverRead(f *Frontend) error {
	question := (&Message{Request: GetFeatures, Flags: FlagVersion}).encode()
	sock := f.Conn().sock
	sock.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for range 20000 {
		if _, err := sock.Write(question); err != nil {
			break
		}
	}
	f.Hangup()
	return errLeft
}

// badMemory has region tables. Region 0 of a Frontend is a good one.
func badMemory() []*Misdeed {
	table := func(fds int, change func(r []MemRegion) []MemRegion) func(*Frontend) error {
		return func(f *Frontend) error {
			r := change(f.mem.Regions()[:2])
			all := append(f.mem.FDs(), f.mem.FDs()...)
			return f.tell(SetMemTable, memTable(r), all[:fds]...)
		}
	}
	one := func(r MemRegion) func([]MemRegion) []MemRegion {
		return func(all []MemRegion) []MemRegion {
			if r.Size == 0 {
				r.Size = all[0].Size
			}
			return []MemRegion{r}
		}
	}
	return []*Misdeed{
		{Name: "memory: no region", do: table(0, func(r []MemRegion) []MemRegion { return nil })},
		{Name: "memory: a descriptor is missing", Fatal: true, do: table(1, same)},
		{Name: "memory: no descriptor", Fatal: true, do: table(0, same)},
		{Name: "memory: a descriptor too many", Fatal: true, do: table(3, same)},
		{Name: "memory: more regions are told than sent", Fatal: true, do: moreRegionsTold},
		{Name: "memory: guest addresses overlap", Fatal: true, do: table(2, func(r []MemRegion) []MemRegion { r[1].Guest = r[0].Guest + 4096; return r })},
		{Name: "memory: user addresses overlap", do: table(2, func(r []MemRegion) []MemRegion { r[1].User = r[0].User + 4096; return r })},
		{Name: "memory: the guest address wraps", Fatal: true, do: table(1, one(MemRegion{Guest: math.MaxUint64 - 4095, Size: 8192}))},
		{Name: "memory: the user address wraps", Fatal: true, do: table(1, one(MemRegion{User: math.MaxUint64 - 4095, Size: 8192}))},
		{Name: "memory: empty region", Fatal: true, do: table(1, func(r []MemRegion) []MemRegion { r[0].Size = 0; return r[:1] })},
		{Name: "memory: an offset within a page", do: table(1, one(MemRegion{Offset: 17}))},
		{Name: "memory: behind the file's end", Fatal: true, do: table(1, one(MemRegion{Size: 1 << 40}))},
		{Name: "memory: offset and size wrap", Fatal: true, do: table(1, one(MemRegion{Offset: math.MaxUint64 - 4095, Size: 8192}))},
		{Name: "memory: everything there is", Fatal: true, do: table(1, one(MemRegion{Size: math.MaxUint64}))},
		{Name: "memory: an event as a file", Fatal: true, do: func(f *Frontend) error {
			return f.tell(SetMemTable, memTable([]MemRegion{{Size: 4096}}), f.rings[0].masked)
		}},
		{Name: "memory: taken away while the disk runs", do: func(f *Frontend) error {
			r := f.mem.Regions()[0]
			return f.tell(RemMemReg, r.append(u64s(0)))
		}},
		{Name: "memory: a region twice", do: func(f *Frontend) error {
			r := f.mem.regions[0]
			return f.tell(AddMemReg, r.append(u64s(0)), r.fd)
		}},
		{Name: "memory: an unknown region is removed", do: func(f *Frontend) error {
			return f.tell(RemMemReg, MemRegion{Guest: 1 << 50, Size: 4096}.append(u64s(0)))
		}},
		{Name: "memory: a hundred regions", do: manyRegions},
	}
}

func same(r []MemRegion) []MemRegion { return r }

func moreRegionsTold(f *Frontend) error {
	b := memTable(f.mem.Regions()[:2])
	le.PutUint32(b, 8)
	return f.tell(SetMemTable, b, f.mem.FDs()[:2]...)
}

func manyRegions(f *Frontend) error {
	for i := range uint64(100) {
		r := MemRegion{Guest: 1<<40 + i*8192, User: 1<<45 + i*8192, Size: 4096}
		if err := f.tell(AddMemReg, r.append(u64s(0)), f.mem.regions[0].fd); err != nil {
			return fmt.Errorf("region %d: %w", i, err)
		}
	}
	return nil
}

func badVrings() []*Misdeed {
	tell := func(r Request, payload []byte) func(*Frontend) error {
		return func(f *Frontend) error { return f.tell(r, payload) }
	}
	var all []*Misdeed
	for _, n := range []uint32{0, 3, 2048, 1 << 16, math.MaxUint32} {
		all = append(all, &Misdeed{Name: fmt.Sprintf("queue: size %d", n), Fatal: true, do: idle(tell(SetVringNum, vringState(0, n)))})
	}
	for _, r := range []Request{SetVringNum, SetVringBase, GetVringBase, SetVringEnable} {
		all = append(all, &Misdeed{Name: fmt.Sprintf("queue: %v of queue 300", r), Fatal: true, do: tell(r, vringState(300, 1))})
	}
	return append(all, []*Misdeed{
		{Name: "queue: base 70000", Fatal: true, do: idle(tell(SetVringBase, vringState(0, 70000)))},
		{Name: "queue: enabled with 7", do: tell(SetVringEnable, vringState(0, 7))},
		{Name: "queue: stopped twice", do: func(f *Frontend) error {
			if _, err := f.ask(GetVringBase, vringState(0, 0)); err != nil {
				return err
			}
			_, err := f.ask(GetVringBase, vringState(0, 0))
			return err
		}},
		{Name: "queue: addresses within a word", Fatal: true, do: address(func(a []uint64) { a[0]++; a[1]++; a[2]++ })},
		{Name: "queue: addresses outside", Fatal: true, do: address(func(a []uint64) { a[1] = 4096 })},
		{Name: "queue: over the end of a region", Fatal: true, do: address(func(a []uint64) { a[0] = 0 })},
		{Name: "queue: parts on top of each other", do: address(func(a []uint64) { a[1], a[2] = a[0], a[0] })},
		{Name: "queue: a kick without a descriptor", Fatal: true, do: tell(SetVringKick, u64s(0))},
		{Name: "queue: a kick of queue 255", Fatal: true, do: tell(SetVringKick, u64s(255|1<<8))},
		{Name: "queue: a kick with two descriptors", Fatal: true, do: func(f *Frontend) error {
			return f.tell(SetVringKick, u64s(0), f.rings[0].masked, f.failed)
		}},
		{Name: "queue: a descriptor that is none for a kick", do: func(f *Frontend) error {
			return f.tell(SetVringKick, u64s(1<<8), f.rings[0].masked)
		}},
		{Name: "queue: a file as a kick", do: func(f *Frontend) error { return f.tell(SetVringKick, u64s(0), f.mem.regions[0].fd) }},
		{Name: "queue: a file as a call", do: func(f *Frontend) error { return f.tell(SetVringCall, u64s(0), f.mem.regions[0].fd) }},
		{Name: "queue: a call that blocks", do: blockingCall},
	}...)
}

// idle stops the disk first.
func idle(do func(*Frontend) error) func(*Frontend) error {
	return func(f *Frontend) error {
		if err := f.Stop(); err != nil {
			return err
		}
		return do(f)
	}
}

// address gives queue 0 other addresses (descriptors, used, available) and
// starts it.
func address(change func(a []uint64)) func(*Frontend) error {
	return idle(func(f *Frontend) error {
		r := f.rings[0]
		a := []uint64{f.mem.userAddr(r.descMem.Addr), f.mem.userAddr(r.usedMem.Addr), f.mem.userAddr(r.availMem.Addr)}
		change(a)
		if a[0] == 0 { // the last page of a region
			last := f.mem.regions[0]
			a[0] = last.User + last.Size - 16
		}
		b := append(vringState(0, 0), u64s(a...)...)
		return f.steps(func() error { return f.vringNum(0) },
			func() error { return f.vringBase(0) },
			func() error { return f.tell(SetVringAddr, append(b, u64s(0)...)) },
			func() error { return f.vringKick(0) },
			func() error { return f.vringEnable(1)(0) },
			func() error { r.Kick(); return nil })
	})
}

// blockingCall gives a pipe that is full for the calls, and makes requests.
func blockingCall(f *Frontend) error {
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		return err
	}
	defer closeAll(p[:])
	syscall.SetNonblock(p[1], true)
	for b := make([]byte, 4096); ; {
		if _, err := syscall.Write(p[1], b); err != nil {
			break
		}
	}
	syscall.SetNonblock(p[1], false)
	if err := f.tell(SetVringCall, u64s(0), p[1]); err != nil {
		return err
	}
	d := f.Driver(0)
	d.Poll = true
	d.Ring.Arm()
	io := &IO{Op: OpFlush}
	if err := d.prepare(io); err != nil {
		return err
	}
	d.Ring.Publish()
	return d.Wait(io)
}

func badConfigs() []*Misdeed {
	get := func(offset, size uint32, data int) func(*Frontend) error {
		return func(f *Frontend) error {
			return f.Conn().Send(Message{Request: GetConfig, Flags: FlagVersion, Payload: configAccess(offset, size, 0, make([]byte, data))})
		}
	}
	set := func(offset uint32, data int) func(*Frontend) error {
		return func(f *Frontend) error { return f.WriteConfig(offset, make([]byte, data)) }
	}
	return []*Misdeed{
		{Name: "config: 64 KiB", do: get(0, 1<<16, 1<<16)},
		{Name: "config: 257 bytes", do: get(0, 257, 257)},
		{Name: "config: at 1 MiB", do: get(1<<20, 8, 8)},
		{Name: "config: offset and size wrap", do: get(math.MaxUint32-3, 8, 8)},
		{Name: "config: more is told than sent", do: get(0, 64, 8)},
		{Name: "config: nothing", do: get(0, 0, 0)},
		{Name: "config: the capacity is written", do: set(0, 8)},
		{Name: "config: written behind the end", do: set(250, 16)},
		{Name: "config: without a header", Fatal: true, do: send(Message{Request: GetConfig, Payload: make([]byte, 4)})},
	}
}

func badInflights() []*Misdeed {
	get := func(queues, num uint16) func(*Frontend) error {
		return func(f *Frontend) error {
			return f.Conn().Send(Message{Request: GetInflightFD, Flags: FlagVersion, Payload: InflightInfo{Queues: queues, Num: num}.encode()})
		}
	}
	set := func(size int64, i InflightInfo, fds int, content byte) func(*Frontend) error {
		return idle(func(f *Frontend) error { return setInflight(f, size, i, fds, content) })
	}
	const enough = 1 << 16
	good := InflightInfo{Size: enough, Queues: 1, Num: 128}
	with := func(change func(*InflightInfo)) InflightInfo { i := good; change(&i); return i }
	return []*Misdeed{
		{Name: "in-flight: no queues", do: get(0, 128)},
		{Name: "in-flight: queues of 0", do: get(1, 0)},
		{Name: "in-flight: queues of 65535", do: get(1, math.MaxUint16)},
		{Name: "in-flight: 65535 queues", do: get(math.MaxUint16, 1024)},
		{Name: "in-flight: no descriptor", Fatal: true, do: set(enough, good, 0, 0)},
		{Name: "in-flight: two descriptors", Fatal: true, do: set(enough, good, 2, 0)},
		{Name: "in-flight: too small", Fatal: true, do: set(enough, with(func(i *InflightInfo) { i.Size = 64 }), 1, 0)},
		{Name: "in-flight: larger than its file", Fatal: true, do: set(4096, good, 1, 0)},
		{Name: "in-flight: an offset that wraps", Fatal: true, do: set(enough, with(func(i *InflightInfo) { i.Offset = math.MaxUint64 - 4095 }), 1, 0)},
		{Name: "in-flight: an offset within a page", do: set(enough, with(func(i *InflightInfo) { i.Size, i.Offset = 8192, 8 }), 1, 0)},
		{Name: "in-flight: other queues than there are", do: set(enough, with(func(i *InflightInfo) { i.Queues, i.Num = 3, 7 }), 1, 0)},
		{Name: "in-flight: nonsense of ones", do: set(enough, good, 1, 0xff)},
		{Name: "in-flight: nonsense", do: set(enough, good, 1, 0x01)},
	}
}

// setInflight hands over a region filled with content, and starts the disk.
func setInflight(f *Frontend, size int64, i InflightInfo, fds int, content byte) error {
	fd, err := sys.Memfd("vhosttest-inflight", size)
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	b := make([]byte, size)
	for i := range b {
		b[i] = content
	}
	if _, err := syscall.Pwrite(fd, b, 0); err != nil {
		return err
	}
	if err := f.tell(SetInflightFD, i.encode(), []int{fd, fd}[:fds]...); err != nil {
		return err
	}
	return f.steps(
		func() error { return f.eachStarted(f.vringNum, f.vringBase, f.vringAddr, f.vringKick) },
		func() error { return f.eachQueue(f.vringEnable(1)) },
		func() error { f.rings[0].Kick(); return nil })
}

func badOrders() []*Misdeed {
	return []*Misdeed{
		{Name: "order: a kick before anything else", fresh: true, do: func(f *Frontend) error {
			return f.steps(func() error { return f.vringKick(0) }, func() error { f.rings[0].Kick(); return nil })
		}},
		{Name: "order: addresses before memory", Fatal: true, fresh: true, do: func(f *Frontend) error {
			return f.steps(func() error { return f.vringNum(0) }, func() error { return f.vringAddr(0) },
				func() error { return f.vringKick(0) }, func() error { f.rings[0].Kick(); return nil })
		}},
		{Name: "order: the base of a ring that never ran", fresh: true, do: send(Message{Request: GetVringBase, Payload: vringState(0, 0)})},
		{Name: "order: features that were not offered", Fatal: true, fresh: true, do: send(Message{Request: SetFeatures, Payload: u64s(math.MaxUint64)})},
		{Name: "order: protocol features that were not offered", Fatal: true, fresh: true, do: send(Message{Request: SetProtocolFeatures, Payload: u64s(math.MaxUint64)})},
		{Name: "order: features while the disk runs", do: func(f *Frontend) error { return f.tell(SetFeatures, u64s(FVersion1|FProtocolFeatures)) }},
		{Name: "order: memory while the disk runs", do: (*Frontend).setMemTable},
		{Name: "order: owner twice", do: send(Message{Request: SetOwner}, Message{Request: SetOwner})},
		{Name: "order: owner reset", do: send(Message{Request: ResetOwner})},
		{Name: "order: a log without the feature", do: send(Message{Request: SetLogBase, Payload: u64s(4096, 0)})},
		{Name: "order: a channel without a descriptor", Fatal: true, do: send(Message{Request: SetBackendReqFD})},
		{Name: "order: reset while the disk runs", do: send(Message{Request: ResetDevice})},
		{Name: "order: status 255", do: send(Message{Request: SetStatus, Payload: u64s(255)})},
	}
}

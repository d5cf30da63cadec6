package vhosttest

import (
	"fmt"
	"syscall"

	"blockengine/engine/sys"
)

// The steps that personalities put in order. Each sends what its name says, or
// nothing if it needs a feature that was not negotiated.

func (f *Frontend) steps(steps ...func() error) error {
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// eachQueue calls do for all queues, eachStarted for those that are in use.
func (f *Frontend) eachQueue(do func(i int) error) error { return forEach(len(f.rings), do) }

func (f *Frontend) eachStarted(do ...func(i int) error) error { return forEach(f.using, do...) }

func forEach(n int, do ...func(i int) error) error {
	for i := range n {
		for _, d := range do {
			if err := d(i); err != nil {
				return fmt.Errorf("queue %d: %w", i, err)
			}
		}
	}
	return nil
}

// tell sends a message that has no reply of its own, and waits for an
// acknowledgement if the personality asks for one.
func (f *Frontend) tell(r Request, payload []byte, fds ...int) error {
	f.trace(r, payload, fds)
	m := Message{Request: r, Flags: FlagVersion, Payload: payload, FDs: fds}
	if f.acking && f.p.Acks != nil && f.p.Acks(r) {
		return f.conn.Load().Acknowledge(m)
	}
	if err := f.conn.Load().Send(m); err != nil {
		return fmt.Errorf("%v: %w", r, err)
	}
	return nil
}

// ask sends a message that has a reply.
func (f *Frontend) ask(r Request, payload []byte) (Message, error) {
	f.trace(r, payload, nil)
	m := Message{Request: r, Flags: FlagVersion, Payload: payload}
	if f.acking && f.p.FlagsGets {
		m.Flags |= FlagNeedReply
	}
	return f.conn.Load().Ask(m)
}

func (f *Frontend) askU64(r Request) (uint64, error) {
	m, err := f.ask(r, nil)
	if err != nil {
		return 0, err
	}
	return oneU64(m)
}

func (f *Frontend) trace(r Request, payload []byte, fds []int) {
	if f.o.Trace != nil {
		f.o.Trace("%s: %v %x with %d descriptors", f.p.Name, r, payload, len(fds))
	}
}

func (f *Frontend) getFeatures() error {
	v, err := f.askU64(GetFeatures)
	if err != nil {
		return err
	}
	f.offered = v
	f.features = v & f.p.Features &^ f.o.Without
	if len(f.rings) < 2 {
		f.features &^= FMQ
	}
	return nil
}

// driverFeatures are what the driver in the guest takes.
func (f *Frontend) driverFeatures() uint64 {
	if f.firmware {
		return f.features & (FVersion1 | FSizeMax | FSegMax | FBlkSize | FProtocolFeatures)
	}
	return f.features
}

func (f *Frontend) setFeatures() error { return f.tell(SetFeatures, u64s(f.driverFeatures()&^FLogAll)) }

func (f *Frontend) getProtocolFeatures() error {
	if f.features&FProtocolFeatures == 0 {
		return nil
	}
	v, err := f.askU64(GetProtocolFeatures)
	f.protocolOffered = v
	f.protocol = v & f.p.Protocol &^ f.o.WithoutProtocol
	return err
}

func (f *Frontend) setProtocolFeatures() error {
	if f.features&FProtocolFeatures == 0 {
		return nil
	}
	err := f.tell(SetProtocolFeatures, u64s(f.protocol))
	f.acking = f.protocol&PReplyAck != 0
	return err
}

func (f *Frontend) getQueueNum() error {
	if f.protocol&PMQ == 0 {
		return nil
	}
	n, err := f.askU64(GetQueueNum)
	if err == nil && n < uint64(len(f.rings)) {
		err = fmt.Errorf("vhosttest: %d queues are wanted, the back-end has %d", len(f.rings), n)
	}
	return err
}

func (f *Frontend) getMaxMemSlots() error {
	if f.protocol&PConfigureMemSlots == 0 {
		return nil
	}
	n, err := f.askU64(GetMaxMemSlots)
	if err == nil && n < uint64(len(f.mem.regions)) {
		err = fmt.Errorf("vhosttest: the guest has %d memory slots, the back-end takes %d", len(f.mem.regions), n)
	}
	return err
}

// getConfig asks for the personality's size, and sends as many bytes along.
func (f *Frontend) getConfig() error {
	b, err := f.ReadConfig(0, f.p.ConfigSize)
	f.config = b
	return err
}

func (f *Frontend) getConfigInPieces() error {
	f.config = nil
	for at := 0; at < f.p.ConfigSize && f.protocol&PConfig != 0; at += 8 {
		b, err := f.ReadConfig(uint32(at), min(8, f.p.ConfigSize-at))
		if err != nil {
			return err
		}
		f.config = append(f.config, b...)
	}
	return nil
}

// prepareInflight gets a region if there is none, and hands it over. A device
// that has not been reset keeps the one that it has.
func (f *Frontend) prepareInflight() error {
	if f.protocol&PInflight == 0 {
		return nil
	}
	if f.inflightFD < 0 {
		if err := f.getInflight(); err != nil {
			return err
		}
	}
	return f.tell(SetInflightFD, f.inflight.encode(), f.inflightFD)
}

func (f *Frontend) getInflight() error {
	m, err := f.ask(GetInflightFD, InflightInfo{Queues: uint16(len(f.rings)), Num: f.o.QueueSize}.encode())
	if err != nil {
		return err
	}
	info, err := decodeInflight(m.Payload)
	if err == nil && (len(m.FDs) != 1 || info.Size == 0) {
		err = fmt.Errorf("vhosttest: GET_INFLIGHT_FD: %d descriptors and %d bytes, want one descriptor of some", len(m.FDs), info.Size)
	}
	if err != nil {
		closeAll(m.FDs)
		return err
	}
	f.inflight, f.inflightFD = info, m.FDs[0]
	return nil
}

func (f *Frontend) forgetInflight() {
	if f.inflightFD >= 0 {
		syscall.Close(f.inflightFD)
		f.inflightFD = -1
	}
}

// setMemory tells where the guest's memory is, the way that was negotiated.
func (f *Frontend) setMemory() error {
	if f.protocol&PConfigureMemSlots == 0 {
		return f.setMemTable()
	}
	for ; f.added < len(f.mem.regions); f.added++ {
		r := f.mem.regions[f.added]
		if err := f.tell(AddMemReg, r.append(u64s(0)), r.fd); err != nil {
			return err
		}
	}
	return nil
}

func (f *Frontend) setMemTable() error {
	return f.tell(SetMemTable, memTable(f.mem.Regions()), f.mem.FDs()...)
}

func (f *Frontend) vringNum(i int) error {
	return f.tell(SetVringNum, vringState(i, uint32(f.rings[i].size)))
}

func (f *Frontend) vringBase(i int) error {
	return f.tell(SetVringBase, vringState(i, uint32(f.bases[i])))
}

// vringAddr sends "A vring address description".
func (f *Frontend) vringAddr(i int) error {
	r := f.rings[i]
	b := vringState(i, 0)
	b = append(b, u64s(f.mem.userAddr(r.descMem.Addr), f.mem.userAddr(r.usedMem.Addr), f.mem.userAddr(r.availMem.Addr), 0)...)
	return f.tell(SetVringAddr, b)
}

func (f *Frontend) vringKick(i int) error {
	return f.tell(SetVringKick, u64s(uint64(i)), f.rings[i].kick)
}
func (f *Frontend) vringCall(i int) error {
	return f.tell(SetVringCall, u64s(uint64(i)), f.rings[i].call)
}

// vringEnable gives the step that enables a queue, or disables it.
func (f *Frontend) vringEnable(on uint32) func(i int) error {
	return func(i int) error {
		if f.features&FProtocolFeatures == 0 {
			return nil // such a ring is enabled from the start
		}
		return f.tell(SetVringEnable, vringState(i, on))
	}
}

// getBase stops a ring and keeps where it was. The back-end has finished all
// that it has taken.
func (f *Frontend) getBase(i int) error {
	m, err := f.ask(GetVringBase, vringState(i, 0))
	if err != nil {
		return err
	}
	if len(m.Payload) != 8 || le.Uint32(m.Payload) != uint32(i) {
		return fmt.Errorf("vhosttest: the reply to GET_VRING_BASE of queue %d is %x", i, m.Payload)
	}
	base, used := le.Uint32(m.Payload[4:]), f.rings[i].UsedIdx()
	f.bases[i] = uint16(base)
	if base != uint32(used) {
		return fmt.Errorf("vhosttest: GET_VRING_BASE gives %d with a used index of %d: a stopped ring has requests that were taken and not finished", base, used)
	}
	return nil
}

// addStatus sets bits of the device's status (vhost-user, STATUS): read, then
// write.
func (f *Frontend) addStatus(bits uint64) error {
	if f.protocol&PStatus == 0 {
		return nil
	}
	s, err := f.askU64(GetStatus)
	if err != nil || s&bits == bits {
		return err
	}
	return f.tell(SetStatus, u64s(s|bits))
}

// setBackendReq hands the back-end a channel for messages of its own.
func (f *Frontend) setBackendReq() error {
	if f.protocol&PBackendReq == 0 {
		return nil
	}
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		return err
	}
	defer sys.Close(theirs)
	if err := f.listenToBackend(ours); err != nil {
		return err
	}
	return f.tell(SetBackendReqFD, nil, theirs)
}

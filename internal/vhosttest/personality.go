package vhosttest

import "time"

// Personality is a known front-end: what it supports and which messages it
// sends in which order. What is said here was read in their sources.
type Personality struct {
	Name     string
	Features uint64 // of the device and its rings, PROTOCOL_FEATURES included
	Protocol uint64 // protocol features

	MaxQueues    int
	MaxQueueSize int
	ConfigSize   int           // bytes that GET_CONFIG asks for
	Redial       time.Duration // from one attempt to the next; 0: it never redials by itself

	// Acks says which messages carry need_reply once REPLY_ACK is there; those
	// that have a reply of their own are asked in either case.
	Acks func(Request) bool
	// FlagsGets sets need_reply on messages that have a reply of their own too.
	// There must be one reply all the same.
	FlagsGets bool
	// GuestIsUser: guest addresses are those of the process.
	GuestIsUser bool
	// FirmwareFirst starts the first queue for a reader without EVENT_IDX and
	// INDIRECT_DESC, stops it and starts again, as a firmware does that looks for
	// something to boot from.
	FirmwareFirst bool
	// KicksLost: what was kicked while no back-end was there is forgotten.
	KicksLost bool
	// Base is what SET_VRING_BASE tells for a ring that a lost back-end had.
	Base func(*Ring) uint16

	connect func(f *Frontend, again bool) error // up to the configuration
	start   func(f *Frontend) error             // up to running rings
	stop    func(f *Frontend) error
}

// Personalities are all that there are.
func Personalities() []*Personality {
	return []*Personality{QEMU(), CloudHypervisor(), Crosvm(), Firecracker(), SPDK()}
}

// usedBase and availBase are what is told about a ring after its back-end died.
func usedBase(r *Ring) uint16  { return r.UsedIdx() }
func availBase(r *Ring) uint16 { return r.AvailIdx() }

// blkFeatures are those that a Linux guest can use.
const blkFeatures = FSizeMax | FSegMax | FGeometry | FRO | FBlkSize | FFlush | FTopology | FConfigWCE | FMQ | FDiscard | FWriteZeroes

const ringFeatures = FIndirect | FEventIdx | FVersion1 | FProtocolFeatures

// QEMU is version 7.2 and later (hw/block/vhost-user-blk.c, hw/virtio/vhost.c and
// vhost-user.c).
//
//   - The protocol's features are negotiated before SET_OWNER, and GET_FEATURES is
//     asked twice. Each queue gets a call descriptor and an error descriptor before
//     anything else, and other call descriptors when it has started.
//   - GET_CONFIG asks for 57 bytes up to 7.2 (the structure up to the last field of
//     WRITE_ZEROES), 60 later, and only when the device is made, not again after a
//     reconnect.
//   - SET_FEATURES comes twice at each start, with the in-flight region between.
//   - With CONFIGURE_MEM_SLOTS there is no SET_MEM_TABLE: regions are added one by
//     one, once in a connection, however often the device starts.
//   - SET_VRING_ENABLE is sent for all queues, also those that are not set up, which
//     is how SeaBIOS leaves all but the first.
//   - A reset by the guest frees the in-flight region, so Linux gets another one
//     than SeaBIOS had. A reconnect keeps it.
//   - When GET_VRING_BASE fails because the back-end is gone, the used index is what
//     the next back-end is told; what was kicked in between is lost.
func QEMU() *Personality {
	return &Personality{
		Name:     "qemu",
		Features: blkFeatures | ringFeatures | FNotifyOnEmpty | FLogAll,
		Protocol: PMQ | PLogShmFD | PReplyAck | PBackendReq | PConfig | PBackendSendFD | PHostNotifier |
			PInflight | PResetDevice | PConfigureMemSlots | PStatus,
		MaxQueues: 1024, MaxQueueSize: MaxQueueSize, ConfigSize: 60, Redial: time.Second,
		Acks: func(r Request) bool {
			switch r {
			case SetMemTable, AddMemReg, RemMemReg, SetBackendReqFD, SetVringEnable, SetConfig:
				return true
			}
			return false
		},
		FirmwareFirst: true, KicksLost: true, Base: usedBase,
		connect: qemuConnect, start: qemuStart, stop: qemuStop,
	}
}

func qemuConnect(f *Frontend, again bool) error {
	return f.steps(
		f.getFeatures, f.getProtocolFeatures, f.setProtocolFeatures, f.getQueueNum, f.getMaxMemSlots, f.setBackendReq,
		func() error { return f.tell(SetOwner, nil) },
		f.getFeatures,
		func() error {
			return f.eachQueue(func(i int) error {
				if err := f.tell(SetVringCall, u64s(uint64(i)), f.rings[i].masked); err != nil {
					return err
				}
				return f.tell(SetVringErr, u64s(uint64(i)), f.failed)
			})
		},
		func() error {
			if again {
				return nil
			}
			return f.getConfig()
		})
}

func qemuStart(f *Frontend) error {
	return f.steps(
		f.setFeatures, f.prepareInflight, f.setFeatures,
		func() error { return f.addStatus(StatusFeaturesOK) },
		f.setMemory,
		func() error { return f.eachStarted(f.vringNum, f.vringBase, f.vringAddr, f.vringKick) },
		func() error { return f.eachQueue(f.vringEnable(1)) },
		func() error { return f.addStatus(StatusAcknowledge | StatusDriver | StatusDriverOK) },
		func() error { return f.eachQueue(f.vringCall) })
}

func qemuStop(f *Frontend) error {
	return f.steps(
		func() error { return f.eachQueue(f.vringEnable(0)) },
		func() error { return f.eachStarted(f.getBase) },
		func() error {
			if f.protocol&PStatus == 0 {
				return nil
			}
			return f.tell(SetStatus, u64s(0))
		})
}

// CloudHypervisor is version 38 and later (virtio-devices/src/vhost_user, on the
// vhost crate of rust-vmm).
//
//   - Every message carries need_reply after REPLY_ACK was negotiated, those with a
//     reply of their own too, and each is waited for.
//   - SET_VRING_NUM is sent for all queues before anything else of a queue, and
//     before the in-flight region, for back-ends that count queues by it.
//   - SET_VRING_BASE tells the available index, at the first start and after a
//     reconnect: what is outstanding is the in-flight region's business alone. (Only
//     with IN_ORDER and without a region it tells the used index.)
//   - After a reconnect the protocol's features are set without being asked for.
//   - It retries every 100 ms, for a minute.
func CloudHypervisor() *Personality {
	return &Personality{
		Name:      "cloud-hypervisor",
		Features:  blkFeatures | ringFeatures,
		Protocol:  PConfig | PMQ | PConfigureMemSlots | PReplyAck | PInflight | PLogShmFD | PDeviceState,
		MaxQueues: 256, MaxQueueSize: MaxQueueSize, ConfigSize: 60, Redial: 100 * time.Millisecond,
		Acks:      func(r Request) bool { return true },
		FlagsGets: true, Base: availBase,
		connect: cloudConnect,
		start: func(f *Frontend) error {
			return f.steps(f.setFeatures, f.setMemTable,
				func() error { return f.eachStarted(f.vringNum) },
				f.prepareInflight,
				func() error { return f.eachStarted(f.vringAddr, f.vringBase, f.vringCall, f.vringKick) },
				func() error { return f.eachStarted(f.vringEnable(1)) })
		},
		stop: disableAndStop,
	}
}

func cloudConnect(f *Frontend, again bool) error {
	err := f.steps(func() error { return f.tell(SetOwner, nil) }, f.getFeatures)
	if err != nil || again {
		return f.steps(func() error { return err }, f.setProtocolFeatures)
	}
	return f.steps(f.getProtocolFeatures, f.setProtocolFeatures, f.getQueueNum, f.getConfig)
}

// disableAndStop goes queue by queue.
func disableAndStop(f *Frontend) error { return f.eachStarted(f.vringEnable(0), f.getBase) }

// Crosvm is its vhost-user front-end (devices/src/virtio/vhost_user_frontend).
//
//   - REPLY_ACK is negotiated and need_reply never set: it is there for what the
//     back-end sends.
//   - There is no in-flight region and no reconnect.
//   - The configuration is read whenever the guest reads it, at any offset and in
//     pieces of any length; here 8 bytes at a time.
func Crosvm() *Personality {
	return &Personality{
		Name:      "crosvm",
		Features:  blkFeatures | ringFeatures | FSecureErase,
		Protocol:  PConfig | PMQ | PBackendReq | PReplyAck | PDeviceState,
		MaxQueues: 16, MaxQueueSize: MaxQueueSize, ConfigSize: 60,
		Base: usedBase,
		connect: func(f *Frontend, again bool) error {
			return f.steps(func() error { return f.tell(SetOwner, nil) },
				f.getFeatures, f.getProtocolFeatures, f.setProtocolFeatures, f.setBackendReq, f.getQueueNum, f.getConfigInPieces)
		},
		start: func(f *Frontend) error {
			return f.steps(f.setFeatures, f.setMemTable, func() error {
				return f.eachStarted(f.vringNum, f.vringAddr, f.vringBase, f.vringCall, f.vringKick, f.vringEnable(1))
			})
		},
		stop: disableAndStop,
	}
}

// Firecracker (src/vmm/src/devices/virtio/vhost_user.rs, on the vhost crate).
//
//   - It asks for one protocol feature, CONFIG, and so gets no replies to anything
//     that has none of its own.
//   - One queue of 256, no EVENT_IDX or INDIRECT_DESC of its own choice beyond what
//     the guest takes, no in-flight region, no reconnect, no stop.
func Firecracker() *Personality {
	return &Personality{
		Name:      "firecracker",
		Features:  FFlush | FRO | FEventIdx | FVersion1 | FProtocolFeatures,
		Protocol:  PConfig,
		MaxQueues: 1, MaxQueueSize: 256, ConfigSize: 60,
		Base: usedBase,
		connect: func(f *Frontend, again bool) error {
			return f.steps(func() error { return f.tell(SetOwner, nil) },
				f.getFeatures, f.getProtocolFeatures, f.setProtocolFeatures, f.getConfig)
		},
		start: func(f *Frontend) error {
			return f.steps(f.setFeatures, f.setMemTable,
				func() error { return f.eachStarted(f.vringNum) },
				func() error {
					return f.eachStarted(f.vringAddr, f.vringBase, f.vringCall, f.vringKick, f.vringEnable(1))
				})
		},
	}
}

// SPDK is its virtio-user initiator (lib/virtio/virtio_vhost_user.c).
//
//   - SET_FEATURES comes before the protocol's features are asked for.
//   - SET_VRING_ENABLE is sent when a queue's memory has been found: before memory
//     table, size, addresses and descriptors are known to the back-end.
//   - GET_CONFIG asks for 256 bytes, sends as many along, and insists on a reply of
//     the same length.
//   - Memory is sent without need_reply; a GET_FEATURES behind it is the proof that
//     it has arrived.
//   - Guest addresses are the process's own.
func SPDK() *Personality {
	return &Personality{
		Name:      "spdk",
		Features:  FSizeMax | FSegMax | FRO | FBlkSize | FFlush | FTopology | FMQ | FDiscard | FEventIdx | FIndirect | FVersion1 | FProtocolFeatures,
		Protocol:  PMQ | PConfig,
		MaxQueues: 256, MaxQueueSize: MaxQueueSize, ConfigSize: 256,
		GuestIsUser: true, Base: usedBase,
		connect: func(f *Frontend, again bool) error {
			return f.steps(func() error { return f.tell(SetOwner, nil) },
				f.getFeatures, f.setFeatures, f.getProtocolFeatures, f.setProtocolFeatures, f.getConfig)
		},
		start: func(f *Frontend) error {
			return f.steps(
				func() error { return f.eachStarted(f.vringEnable(1)) },
				f.getQueueNum,
				func() error { return f.eachStarted(f.vringCall) },
				f.setMemTable, f.getFeatures,
				func() error { return f.eachStarted(f.vringNum, f.vringBase, f.vringAddr, f.vringKick) })
		},
		stop: func(f *Frontend) error { return f.eachStarted(f.getBase) },
	}
}

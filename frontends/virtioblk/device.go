package virtioblk

import (
	"fmt"

	"blockengine/sdk/block"
)

// MaxChain is how many buffers a chain has at most that keeps to the limits
// shown: the pieces of the payload, header and status. Drivers do not look at the
// size of the ring for that.
const MaxChain = maxSegments + 2

// Limits that every device shows.
const (
	// A request has at most maxSegments pieces of at most maxSegment bytes:
	// together a little less than the 32 MiB that a volume takes. With header
	// and status they fit into a ring of 128.
	maxSegments = 126
	maxSegment  = 256 << 10

	// maxRanges is how many ranges a discard or write-zeroes may name.
	maxRanges = 16
	// maxRange is how long a range may be, in bytes, and maxEmulated how long
	// if every byte of it has to be sent to the disk.
	maxRange    = 1 << 30
	maxEmulated = 32 << 20
)

// Options of a Device.
type Options struct {
	Queues   int // 1 to 65535
	ReadOnly bool
	Serial   string // up to IDSize bytes
}

// Device is what a driver negotiates with: features, and the cache mode. It is
// for the control path, and for one goroutine; the data path has a copy of what
// it needs, see Rules.
type Device struct {
	o            Options
	features     uint64 // that the driver has accepted
	writethrough bool   // as the driver has written into the configuration space
}

// NewDevice makes a device of which nothing has been negotiated.
func NewDevice(o Options) (*Device, error) {
	if o.Queues < 1 || o.Queues > 1<<16-1 {
		return nil, fmt.Errorf("virtio-blk: %d queues: give 1 to 65535", o.Queues)
	}
	if len(o.Serial) > IDSize {
		return nil, fmt.Errorf("virtio-blk: the serial number %q has %d bytes, a guest can be shown %d", o.Serial, len(o.Serial), IDSize)
	}
	return &Device{o: o}, nil
}

// understood are the features that the device can do for some disk.
const understood = FeatureSizeMax | FeatureSegMax | FeatureRO | FeatureBlkSize | FeatureFlush | FeatureTopology |
	FeatureConfigWCE | FeatureMQ | FeatureDiscard | FeatureWriteZeroes |
	FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1

// Features are what is offered for a disk.
func (d *Device) Features(info *block.Info) uint64 {
	f := understood &^ (FeatureRO | FeatureDiscard | FeatureWriteZeroes)
	if d.readOnly(info) {
		return f | FeatureRO
	}
	if info.Has(block.CapDiscard) {
		f |= FeatureDiscard
	}
	return f | FeatureWriteZeroes
}

func (d *Device) readOnly(info *block.Info) bool { return d.o.ReadOnly || info.Has(block.CapReadOnly) }

// Accept takes the features that the driver has chosen. It refuses what the
// device does not know; what it knows and does not offer for this disk is let
// pass, because a driver that has chosen it goes on with it when an engine
// starts again, or a plugin changes, behind it.
func (d *Device) Accept(features uint64) error {
	if strange := features &^ understood; strange != 0 {
		return fmt.Errorf("virtio-blk: the driver has accepted features %#x that are not offered", strange)
	}
	d.features = features
	return nil
}

// Accepted are the features that the driver has chosen.
func (d *Device) Accepted() uint64 { return d.features }

// Reset forgets what was negotiated (virtio 1.2, 2.4).
func (d *Device) Reset() { d.features, d.writethrough = 0, false }

// Config gives the configuration space for a disk.
func (d *Device) Config(info *block.Info) Config {
	c := Config{
		Capacity:  info.Size / SectorSize,
		SizeMax:   maxSegment,
		SegMax:    maxSegments,
		BlkSize:   blkSize(info),
		NumQueues: uint16(d.o.Queues),
		Writeback: 1,
	}
	if d.writethrough {
		c.Writeback = 0
	}
	// File systems take a physical block for what the disk writes as a whole,
	// and some refuse one that is larger than a page.
	c.PhysicalBlockExp = log2(min(max(info.PreferredBlock, c.BlkSize), max(4096, c.BlkSize)) / c.BlkSize)
	c.MinIOSize = uint16(min(max(info.PreferredBlock/c.BlkSize, 1), 1<<15))
	if d.readOnly(info) {
		return c
	}
	if info.Has(block.CapDiscard) {
		c.MaxDiscardSectors, c.MaxDiscardSeg = sectorsOf(maxRange, c.BlkSize), maxRanges
		c.DiscardAlignment = max(info.PreferredBlock, c.BlkSize) / SectorSize
	}
	c.MaxWriteZeroesSectors, c.MaxWriteZeroesSeg = sectorsOf(zeroesLimit(info), c.BlkSize), maxRanges
	c.WriteZeroesMayUnmap = 1
	return c
}

// blkSize is the disk's block as a driver counts: at least a sector.
func blkSize(info *block.Info) uint32 { return max(info.BlockSize, SectorSize) }

// zeroesLimit is the longest write-zeroes. A disk that says how long its own
// are is given ranges of a few of them at a time.
func zeroesLimit(info *block.Info) uint64 {
	if info.MaxZeroes == 0 {
		return maxRange
	}
	return min(maxRange, max(maxEmulated, 8*info.MaxZeroes))
}

func sectorsOf(bytes uint64, blk uint32) uint32 {
	return uint32((bytes - bytes%uint64(blk)) / SectorSize)
}

// ReadConfig answers a driver's read of len(b) bytes at offset. What lies
// beyond the fields that there are is 0: front-ends ask for more.
func (d *Device) ReadConfig(info *block.Info, offset uint64, b []byte) {
	clear(b)
	c := d.Config(info)
	space := c.Bytes()
	if offset < ConfigSize {
		copy(b, space[offset:])
	}
}

// WriteConfig takes a driver's write. Only the cache mode can be written. With
// restore the rest is let pass: a front-end then brings the whole space as the
// driver has seen it elsewhere.
func (d *Device) WriteConfig(offset uint64, b []byte, restore bool) error {
	if !restore && (offset != configWCE || len(b) != 1) {
		return fmt.Errorf("virtio-blk: the driver has written bytes %d to %d of the configuration space: only byte %d, the cache mode, can be written",
			offset, offset+uint64(len(b)), configWCE)
	}
	if offset <= configWCE && configWCE-offset < uint64(len(b)) {
		d.writethrough = b[configWCE-offset] == 0
	}
	return nil
}

// Rules are what the data path has to know of a device. They are a value: each
// queue has its own copy, and gets a new one when something has changed.
type Rules struct {
	FUA               bool // write through: a write is complete when it is durable
	Discard           bool
	WriteZeroes       bool
	MaxDiscardSectors uint32
	MaxZeroesSectors  uint32
	Serial            [IDSize]byte
}

// Rules gives the rules for a disk as things stand.
func (d *Device) Rules(info *block.Info) Rules {
	c := d.Config(info)
	r := Rules{
		FUA:               d.writesThrough(),
		Discard:           c.MaxDiscardSeg > 0,
		WriteZeroes:       c.MaxWriteZeroesSeg > 0,
		MaxDiscardSectors: c.MaxDiscardSectors,
		MaxZeroesSectors:  c.MaxWriteZeroesSectors,
	}
	// A driver that knows of discards from before gets them done as hints.
	if !d.readOnly(info) && d.features&FeatureDiscard != 0 && !r.Discard {
		r.Discard, r.MaxDiscardSectors = true, sectorsOf(maxRange, c.BlkSize)
	}
	copy(r.Serial[:], d.o.Serial)
	return r
}

// writesThrough tells whether writes must be durable when they complete: the
// driver asks for that, or could not ask for a flush (virtio 1.2, 5.2.6.2).
func (d *Device) writesThrough() bool {
	if d.features&FeatureConfigWCE != 0 {
		return d.writethrough
	}
	return d.features&FeatureFlush == 0
}

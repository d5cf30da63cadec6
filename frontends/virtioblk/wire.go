package virtioblk

import (
	"encoding/binary"
	"math/bits"

	"blockengine/sdk/block"
)

// Feature bits (virtio 1.2, 5.2.3 and 6).
const (
	FeatureSizeMax     uint64 = 1 << 1
	FeatureSegMax      uint64 = 1 << 2
	FeatureRO          uint64 = 1 << 5
	FeatureBlkSize     uint64 = 1 << 6
	FeatureFlush       uint64 = 1 << 9
	FeatureTopology    uint64 = 1 << 10
	FeatureConfigWCE   uint64 = 1 << 11
	FeatureMQ          uint64 = 1 << 12
	FeatureDiscard     uint64 = 1 << 13
	FeatureWriteZeroes uint64 = 1 << 14

	FeatureIndirectDesc uint64 = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx     uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureVersion1     uint64 = 1 << 32 // VIRTIO_F_VERSION_1
)

// Types of requests (virtio 1.2, 5.2.6). Others are answered with UNSUPP.
const (
	typeIn          uint32 = 0
	typeOut         uint32 = 1
	typeFlush       uint32 = 4
	typeGetID       uint32 = 8
	typeDiscard     uint32 = 11
	typeWriteZeroes uint32 = 13
)

// Status is the last byte of a request (virtio 1.2, 5.2.6).
type Status uint8

// The three ways in which a request ends.
const (
	StatusOK     Status = 0
	StatusIOErr  Status = 1
	StatusUnsupp Status = 2
)

// StatusOf gives what a guest is told of a block request's end. Only a request
// that the disk does not know is "unsupported"; every other errno is an error
// of I/O.
func StatusOf(s block.Status) Status {
	switch s {
	case block.OK:
		return StatusOK
	case block.ENOTSUP:
		return StatusUnsupp
	}
	return StatusIOErr
}

const (
	// SectorSize is the unit of all that the guest counts in, in bytes.
	SectorSize  = 512
	sectorShift = 9

	headerSize  = 16 // type u32, reserved u32, sector u64
	segmentSize = 16 // sector u64, sectors u32, flags u32
	flagUnmap   = 1  // of a write-zeroes segment

	// IDSize is the length of a serial number, filled up with zeroes.
	IDSize = 20
	// ConfigSize is the length of the configuration space up to the fields of
	// VIRTIO_BLK_F_WRITE_ZEROES, in bytes.
	ConfigSize = 60
	// configWCE is where the driver chooses the cache mode.
	configWCE = 32
)

// Config is the configuration space (virtio 1.2, 5.2.4). Fields of features
// that are not offered, and the geometry, stay 0.
type Config struct {
	Capacity              uint64 // sectors
	SizeMax               uint32 // bytes of a segment
	SegMax                uint32 // segments of a request
	BlkSize               uint32 // bytes
	PhysicalBlockExp      uint8  // physical blocks are BlkSize << this
	MinIOSize             uint16 // blocks
	OptIOSize             uint32 // blocks
	Writeback             uint8  // 1: the cache is volatile, and flushed on request
	NumQueues             uint16
	MaxDiscardSectors     uint32
	MaxDiscardSeg         uint32
	DiscardAlignment      uint32 // sectors
	MaxWriteZeroesSectors uint32
	MaxWriteZeroesSeg     uint32
	WriteZeroesMayUnmap   uint8
}

// Bytes gives the configuration space as the driver reads it.
func (c *Config) Bytes() (b [ConfigSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], c.Capacity)
	le.PutUint32(b[8:], c.SizeMax)
	le.PutUint32(b[12:], c.SegMax)
	// b[16:20] is the geometry.
	le.PutUint32(b[20:], c.BlkSize)
	b[24] = c.PhysicalBlockExp
	// b[25] is the alignment offset.
	le.PutUint16(b[26:], c.MinIOSize)
	le.PutUint32(b[28:], c.OptIOSize)
	b[configWCE] = c.Writeback
	// b[33] is unused.
	le.PutUint16(b[34:], c.NumQueues)
	le.PutUint32(b[36:], c.MaxDiscardSectors)
	le.PutUint32(b[40:], c.MaxDiscardSeg)
	le.PutUint32(b[44:], c.DiscardAlignment)
	le.PutUint32(b[48:], c.MaxWriteZeroesSectors)
	le.PutUint32(b[52:], c.MaxWriteZeroesSeg)
	b[56] = c.WriteZeroesMayUnmap
	return b
}

// log2 of a power of two.
func log2(n uint32) uint8 { return uint8(bits.TrailingZeros32(n)) }

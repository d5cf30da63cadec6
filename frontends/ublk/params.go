package ublk

import (
	"fmt"
	"math/bits"
	"unsafe"

	"blockengine/sdk/block"
)

// maxSectors is what a 32-bit number of bytes holds, which the block layer counts
// discards in.
const maxSectors = (1<<32 - 1) >> sectorShift

// paramsOf describes the disk to the driver. maxIO is the largest request in
// bytes, as the driver has it, and page the size of a page.
func paramsOf(info *block.Info, readOnly bool, maxIO uint32, page int) (*params, error) {
	p := &params{len: uint32(unsafe.Sizeof(params{})), types: paramBasic}
	logical := max(info.BlockSize, 1<<sectorShift)
	if int(logical) > page {
		return nil, fmt.Errorf("the volume's block size is %d, and the driver takes %d at most: export it by NBD or to a virtual machine", logical, page)
	}
	if maxIO < logical {
		return nil, fmt.Errorf("the largest request has %d bytes, less than a block of %d", maxIO, logical)
	}
	if info.Size < uint64(logical) {
		return nil, fmt.Errorf("the volume has %d bytes, less than a block of %d", info.Size, logical)
	}
	p.logicalShift = shift(logical)
	// More than a page has no meaning for who lays out file systems by it.
	p.physicalShift = max(shift(min(info.PreferredBlock, uint32(page))), p.logicalShift)
	p.minShift, p.optShift = p.physicalShift, max(shift(min(max(info.PreferredBlock, 1), maxIO)), p.physicalShift)
	p.maxSectors = (maxIO &^ (logical - 1)) >> sectorShift
	p.devSectors = info.Size &^ uint64(logical-1) >> sectorShift
	p.attrs = attrsOf(info, readOnly)
	p.manage(info, logical)
	return p, nil
}

func shift(n uint32) uint8 { return uint8(bits.Len32(max(n, 1)) - 1) }

func attrsOf(info *block.Info, readOnly bool) (attrs uint32) {
	if readOnly || info.Has(block.CapReadOnly) {
		attrs |= attrReadOnly
	}
	if info.Has(block.CapRotational) {
		attrs |= attrRotational
	}
	if info.Has(block.CapFlush) {
		attrs |= attrVolatileCache
		if info.Has(block.CapFUA) {
			attrs |= attrFUA
		}
	}
	return attrs
}

// manage offers discard where the disk has it, and write-zeroes, which the volume
// always has. Longer ones than the disk takes are split by the volume.
func (p *params) manage(info *block.Info, logical uint32) {
	most := uint32(maxSectors) &^ (logical>>sectorShift - 1)
	p.types |= paramDiscard
	p.discardGranularity = logical // the driver wants one even where there is no discard
	p.maxZeroesSectors, p.maxDiscardSegments = most, 1
	if info.Has(block.CapDiscard) {
		p.maxDiscardSectors = most
	}
}

// size is the disk's in bytes.
func (p *params) size() uint64 { return p.devSectors << sectorShift }

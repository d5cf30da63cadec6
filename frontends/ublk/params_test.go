package ublk

import (
	"strings"
	"testing"

	"blockengine/sdk/block"
)

func TestParams(t *testing.T) {
	const gib = 1 << 30
	most := uint32(maxSectors)
	for name, c := range map[string]struct {
		info     block.Info
		readOnly bool
		maxIO    uint32
		want     params
	}{
		"plain": {block.Info{Size: gib, BlockSize: 1, PreferredBlock: 4096}, false, 256 << 10,
			params{types: 3, logicalShift: 9, physicalShift: 12, minShift: 12, optShift: 12, maxSectors: 512, devSectors: gib / 512,
				discardGranularity: 512, maxZeroesSectors: most, maxDiscardSegments: 1}},
		"all that there is": {block.Info{Size: gib + 4096 + 512, BlockSize: 4096, PreferredBlock: 65536,
			Caps: block.CapFlush | block.CapFUA | block.CapDiscard | block.CapRotational}, false, 1 << 20,
			params{types: 3, attrs: attrVolatileCache | attrFUA | attrRotational, logicalShift: 12, physicalShift: 12, minShift: 12, optShift: 16,
				maxSectors: 2048, devSectors: gib/512 + 8, discardGranularity: 4096, maxDiscardSectors: most &^ 7, maxZeroesSectors: most &^ 7, maxDiscardSegments: 1}},
		"FUA without a cache": {block.Info{Size: gib, BlockSize: 512, PreferredBlock: 512, Caps: block.CapFUA | block.CapReadOnly}, false, 4096,
			params{types: 3, attrs: attrReadOnly, logicalShift: 9, physicalShift: 9, minShift: 9, optShift: 9, maxSectors: 8, devSectors: gib / 512,
				discardGranularity: 512, maxZeroesSectors: most, maxDiscardSegments: 1}},
		"read only": {block.Info{Size: gib, BlockSize: 512, PreferredBlock: 512}, true, 4096,
			params{types: 3, attrs: attrReadOnly, logicalShift: 9, physicalShift: 9, minShift: 9, optShift: 9, maxSectors: 8, devSectors: gib / 512,
				discardGranularity: 512, maxZeroesSectors: most, maxDiscardSegments: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := paramsOf(&c.info, c.readOnly, c.maxIO, 4096)
			c.want.len = 64
			if err != nil || *got != c.want {
				t.Errorf("%v\n%+v, want\n%+v", err, *got, c.want)
			}
		})
	}
	for want, c := range map[string]struct {
		info  block.Info
		maxIO uint32
	}{
		"block size is 8192":  {block.Info{Size: gib, BlockSize: 8192}, 1 << 20},
		"less than a block":   {block.Info{Size: 511, BlockSize: 1}, 1 << 20},
		"largest request has": {block.Info{Size: gib, BlockSize: 4096}, 2048},
	} {
		if _, err := paramsOf(&c.info, false, c.maxIO, 4096); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

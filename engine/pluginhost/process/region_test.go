package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"blockengine/sdk/block"
)

// TestRegionIsSealed: whoever has the region's file can make it neither smaller,
// which would make the engine's accesses fault, nor larger, and cannot take the
// seals off.
func TestRegionIsSealed(t *testing.T) {
	layout, err := layoutFor(&block.Info{Size: 1 << 20, BlockSize: 512, MaxTransfer: 64 << 10}, 8)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRegion("test", layout)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	memory := r.files()[0] // as the process gets it
	size := int64(len(r.mem))
	for _, to := range []int64{0, 4096, size - 4096, size + 4096} {
		if err := syscall.Ftruncate(memory, to); !errors.Is(err, syscall.EPERM) {
			t.Errorf("truncated to %d: %v", to, err)
		}
		// A descriptor that the process opens by itself is no better.
		if err := os.Truncate(fmt.Sprintf("/proc/self/fd/%d", memory), to); !errors.Is(err, syscall.EPERM) {
			t.Errorf("truncated by its name to %d: %v", to, err)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(memory, &st); err != nil || st.Size != size {
		t.Errorf("its size is %d, %v; want %d", st.Size, err, size)
	}
	clear(r.mem) // all of it is there
}

package ublk

import (
	"math/rand/v2"
	"testing"

	"blockengine/engine/sys"
)

func poolOf(t testing.TB, size, maxIO int) *pool {
	t.Helper()
	p, err := newPool(size, maxIO)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Unmap(p.mem) })
	return p
}

func TestPoolSizes(t *testing.T) {
	for _, c := range []struct{ size, maxIO, want int }{
		{0, 4096, 4096}, {1, 4096, 4096}, {4097, 4096, 8192}, {1 << 20, 256 << 10, 1 << 20},
		{1 << 20, 12 << 10, 1 << 20}, {1, 12 << 10, 16 << 10}, {1, 16 << 20, 16 << 20},
	} {
		if p := poolOf(t, c.size, c.maxIO); len(p.mem) != c.want {
			t.Errorf("a pool of %d for %d has %d bytes, want %d", c.size, c.maxIO, len(p.mem), c.want)
		}
	}
	for n, want := range map[int]int{0: 4096, 1: 4096, 512: 4096, 4096: 4096, 4097: 8192, 12288: 16384, 65536: 65536, 65537: 131072} {
		if got := pieceSize(n); got != want {
			t.Errorf("%d bytes take %d, want %d", n, got, want)
		}
	}
}

// Pieces never overlap, lie at multiples of their size, have the length that was
// asked for and no more room than is theirs; and when all are back, in whatever
// order, the largest requests find their room again.
func TestPool(t *testing.T) {
	const size, maxIO = 1 << 20, 192 << 10 // pieces of 256 KiB at most
	p := poolOf(t, size, maxIO)
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		owner := make([]int, size>>unitShift) // by unit; 0: free
		held := map[int]piece{}
		for i := 1; i < 400; i++ {
			if rnd.IntN(5) < 2 {
				for id, b := range held { // any
					for u := range owner {
						if owner[u] == id {
							owner[u] = 0
						}
					}
					p.release(b)
					delete(held, id)
					break
				}
				continue
			}
			n := (1 + rnd.IntN(maxIO>>9)) << 9
			b, ok := p.get(n)
			if !ok {
				continue
			}
			if len(b.mem) != n || cap(b.mem) != pieceSize(n) || int(b.unit)<<unitShift%pieceSize(n) != 0 || &b.mem[0] != &p.mem[int(b.unit)<<unitShift] {
				t.Fatalf("seed %d: %d bytes at unit %d: %d, room %d", seed, n, b.unit, len(b.mem), cap(b.mem))
			}
			for u := range pieceSize(n) >> unitShift {
				if was := owner[int(b.unit)+u]; was != 0 {
					t.Fatalf("seed %d: unit %d is held twice", seed, int(b.unit)+u)
				}
				owner[int(b.unit)+u] = i
			}
			held[i] = b
		}
		for _, b := range held {
			p.release(b)
		}
		whole := make([]piece, size/(256<<10))
		for i := range whole {
			var ok bool
			if whole[i], ok = p.get(maxIO); !ok {
				t.Fatalf("seed %d: of %d largest requests only %d find room in an empty pool", seed, len(whole), i)
			}
		}
		if _, ok := p.get(1); ok {
			t.Fatalf("seed %d: there is room in a full pool", seed)
		}
		for _, b := range whole {
			p.release(b)
		}
	}
	p.release(piece{})
	if n := testing.AllocsPerRun(100, func() { b, _ := p.get(5000); p.release(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

package volume_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// script makes the world's random choices out of a fuzzer's bytes, so that
// they are what decides about limits, requests and the device's answers. When
// they have run out it goes on with a fixed sequence.
type script struct {
	b []byte
	n uint64
}

func (s *script) Uint64() uint64 {
	s.n++
	if len(s.b) == 0 {
		return s.n * 0x9e3779b97f4a7c15
	}
	v := s.b[0]
	s.b = s.b[1:]
	return uint64(v)<<56 | uint64(v)<<24 | uint64(v)
}

var fuzzReactors = sync.OnceValue(func() []*reactor.Reactor {
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		panic(err)
	}
	r.Start()
	return []*reactor.Reactor{r}
})

// FuzzSubmit plays what the bytes say, a disk and requests to it, against the
// model: see world.
func FuzzSubmit(f *testing.F) {
	f.Add([]byte{0xff, 0x03}, uint16(allCaps), false)
	f.Add([]byte{}, uint16(0), true)
	f.Add([]byte("\x00\x40\x80\xc0\xff\x20\x60\xa0\xe0\x10\x30\x50\x70\x90\xb0\xd0\xf0"), uint16(block.CapFlush), false)
	f.Add([]byte("write zeroes to a disk without them, with FUA by a flush"), uint16(block.CapFlush|block.CapDiscard), true)
	f.Fuzz(func(t *testing.T, data []byte, caps uint16, fail bool) {
		rng := rand.New(&script{b: data})
		info := block.Info{Caps: modelCaps(block.Caps(caps & 0xff))}
		randomLimits(&info, rng)
		w := newWorld(t, fuzzReactors(), info, caps&0x8000 != 0, rng)
		if fail {
			w.f.fail = sometimes(rng)
		}
		w.run(1 + min(len(data)/8, 100))
	})
}

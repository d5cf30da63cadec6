package plain

import (
	"testing"

	"blockengine/examples/protocol-go/server"
	"blockengine/sdk/sdktest"
)

func harness() sdktest.Harness {
	disk := server.New(4 << 20)
	return sdktest.Harness{
		Manifest: Plugin().Manifest(),
		Open:     sdktest.Linked(Plugin()),
		Dial:     func(sdktest.TB) sdktest.Server { return sdktest.Answers(disk.Connect()) },
	}
}

func TestConformance(t *testing.T) { sdktest.Run(t, harness()) }

// A server may say anything, and the stream may be cut anywhere.
func FuzzServer(f *testing.F) {
	for seed := range uint64(64) {
		f.Add(seed)
	}
	h := harness()
	f.Fuzz(func(t *testing.T, seed uint64) { h.Fuzz(t, seed) })
}

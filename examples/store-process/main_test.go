package main

import (
	"bytes"
	"testing"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

type completer struct{ n int }

func (c *completer) Complete(*block.Request)     { c.n++ }
func (c *completer) Post(batch []*block.Request) { c.n += len(batch) }

func TestDiskKeepsWhatIsWritten(t *testing.T) {
	dev, err := ram{}.Open(t.Context(), store.Options{Volume: "v", Sizes: map[string]uint64{"size": 4096}})
	if err != nil {
		t.Fatal(err)
	}
	done := &completer{}
	ch, err := dev.Channel(done)
	if err != nil {
		t.Fatal(err)
	}
	w := block.Request{Op: block.OpWrite, Offset: 512, Length: 1024,
		Data: [][]byte{bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 512)}}
	got := make([]byte, 2048)
	r := block.Request{Op: block.OpRead, Length: 2048, Data: [][]byte{got}}
	ch.Submit([]*block.Request{&w, &r})
	want := append(append(append(make([]byte, 512), w.Data[0]...), w.Data[1]...), make([]byte, 512)...)
	if done.n != 2 || r.Filled != 2048 || !bytes.Equal(got, want) {
		t.Errorf("%d completed, %d bytes filled, content right: %v", done.n, r.Filled, bytes.Equal(got, want))
	}
	if other, _ := (ram{}).Open(t.Context(), store.Options{Volume: "v", Sizes: map[string]uint64{"size": 4096}}); other.Info().Identity == dev.Info().Identity {
		t.Error("an empty disk passes for the one that was written to")
	}
	if _, err := (ram{}).Open(t.Context(), store.Options{Sizes: map[string]uint64{"size": 100}}); err == nil {
		t.Error("a size of 100 bytes is taken")
	}
}

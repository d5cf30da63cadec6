package nbd

import (
	"math/rand/v2"
	"testing"

	"blockengine/sdk/sdktest"
)

// servers are the kinds of server that the plugin must get along with.
func servers() map[string]*responder {
	simple, structured, extended := newResponder(0), newResponder(1), newResponder(2)
	simple.canonical, extended.canonical = "the disk", "the disk"
	scattered, scatteredExt := newResponder(1), newResponder(2)
	scattered.scatter = rand.New(rand.NewPCG(1, 2))
	scatteredExt.scatter = rand.New(rand.NewPCG(3, 4))
	old := newResponder(0)
	old.noGo, old.keepZeros, old.flags = true, true, 1<<0|1<<2
	notFixed := newResponder(0)
	notFixed.notFixed = true
	noMeta := newResponder(1)
	noMeta.noMeta, noMeta.noSizes = true, true
	noGo := newResponder(1)
	noGo.noGo = true
	return map[string]*responder{
		"simple": simple, "structured": structured, "extended": extended,
		"structured scattered": scattered, "extended scattered": scatteredExt,
		"export name": old, "not fixed": notFixed, "no contexts": noMeta, "structured without go": noGo,
	}
}

// serversAgain are those that a suite which has run over all of them runs over again
// in another runtime. Under the race detector that takes long, and what it looks at
// does the same whatever the server says: two that have little in common do.
func serversAgain() map[string]*responder {
	all := servers()
	if !raced {
		return all
	}
	const old, new = "export name", "extended scattered"
	return map[string]*responder{old: all[old], new: all[new]}
}

func TestConformance(t *testing.T) {
	for name, server := range servers() {
		t.Run(name, func(t *testing.T) {
			sdktest.Run(t, sdktest.Harness{
				Manifest: Plugin().Manifest(),
				Values:   map[string]string{"export": "disk0"},
				Open:     sdktest.Linked(Plugin()),
				Dial:     func(sdktest.TB) sdktest.Server { return server.dial() },
			})
		})
	}
}

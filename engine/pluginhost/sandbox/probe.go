package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Feature is one thing that the sandbox is made of.
type Feature struct {
	Name   string
	OK     bool
	Detail string // why not, and how to mend it
}

// Probe says what this kernel lets this user do: whether the strict sandbox
// stands, with and without a network of its own, and which limits cgroups hold.
// It tries, with processes that execute nothing.
func Probe() []Feature {
	dir, err := os.MkdirTemp("", "engine-probe-")
	if err != nil {
		return []Feature{{Name: "sandbox", Detail: err.Error()}}
	}
	defer os.RemoveAll(dir)
	features := []Feature{
		probe("sandbox", Spec{Mode: Strict, StateDir: dir}),
		probe("sandbox with the host's network", Spec{Mode: Strict, Network: true, StateDir: dir}),
	}
	home, err := groupHome()
	for _, c := range wanted {
		f := Feature{Name: "cgroup " + c}
		switch {
		case err != nil:
			f.Detail = err.Error()
		case slices.Contains(home.controllers, c):
			f.OK = true
		default:
			f.Detail = fmt.Sprintf("%s has only the controllers [%s]: mount cgroup v2 with all controllers, with systemd set Delegate=yes",
				home.dir, strings.Join(home.controllers, " "))
		}
		features = append(features, f)
	}
	return features
}

func probe(name string, s Spec) Feature {
	s.Name, s.Path, s.Args = "probe", os.DevNull, []string{"probe"}
	p, err := start(&s, true)
	if err != nil {
		return Feature{Name: name, Detail: err.Error()}
	}
	<-p.Done()
	return Feature{Name: name, OK: true}
}

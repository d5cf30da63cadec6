package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kernel names a kernel that a guest can run.
type Kernel string

// The kernels. Both are Debian's for virtual machines.
const (
	// Stable is the long-term one that Debian 12 offers beside its own, 6.12.
	Stable Kernel = "6.12"
	// Newest is the newest of Debian 13's backports, whichever that is at the time:
	// what it can do must be asked of it.
	Newest Kernel = "newest"
)

// Kernels are all of them.
var Kernels = []Kernel{Stable, Newest}

// origin is where a kernel comes from.
type origin struct {
	kernel   Kernel
	release  *regexp.Regexp // of its releases, as uname -r says them; its groups are the numbers of the version
	named    string         // the package by which releases are found, without the release
	packages []string       // those that hold a kernel with its modules, likewise
	sources  string         // of apt, deb822-style; "" is what this machine has
	mend     string         // what to do where it cannot be had
}

var origins = []origin{{
	kernel:   Stable,
	release:  regexp.MustCompile(`^(6)\.(12)\.([0-9]+)\+deb12-cloud-amd64$`),
	named:    "linux-image-",
	packages: []string{"linux-image-"},
	mend:     "on Debian 12, have its security suite in /etc/apt/sources.list, run `apt-get update` as root, and try again",
}, {
	kernel:   Newest,
	release:  regexp.MustCompile(`^([0-9]+)\.([0-9]+)\.([0-9]+)\+deb13-cloud-amd64$`),
	named:    "linux-binary-",
	packages: []string{"linux-base-", "linux-binary-", "linux-modules-"},
	sources: `Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie-backports
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`,
	mend: "it needs http://deb.debian.org/debian, suite trixie-backports, and the package debian-archive-keyring",
}}

// originOf gives where a kernel comes from.
func originOf(k Kernel) (origin, error) {
	for _, o := range origins {
		if o.kernel == k {
			return o, nil
		}
	}
	return origin{}, fmt.Errorf("no guest has a kernel %q: there are %q", k, Kernels)
}

// version gives the numbers of a release, nil if it is not one of the origin's.
func (o *origin) version(release string) []int {
	m := o.release.FindStringSubmatch(release)
	if m == nil {
		return nil
	}
	var v []int
	for _, digits := range m[1:] {
		n, err := strconv.Atoi(digits)
		if err != nil {
			return nil
		}
		v = append(v, n)
	}
	return v
}

// newest gives the newest release among names, which begin with prefix and end
// at the first space of their line; "" if there is none.
func (o *origin) newest(prefix, names string) string {
	best, found := []int(nil), ""
	for line := range strings.Lines(names) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		release, ok := strings.CutPrefix(name, prefix)
		if v := o.version(release); ok && slices.Compare(v, best) > 0 {
			best, found = v, release
		}
	}
	return found
}

// listsFor is how long lists that were fetched are good.
const listsFor = 24 * time.Hour

// lists is the directory of an origin that has its own sources.
func (o *origin) lists(cache string) string { return filepath.Join(cache, "apt-"+string(o.kernel)) }

// apt gives the options with which apt's programs see the origin's packages:
// sources and lists of its own, so that this machine's stay as they are and no
// root is needed. It makes what these name.
func (o *origin) apt(cache string) ([]string, error) {
	if o.sources == "" {
		return nil, nil
	}
	dir := o.lists(cache)
	for _, sub := range []string{"sources", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "sources/guest.sources"), []byte(o.sources), 0o644); err != nil {
		return nil, err
	}
	return []string{
		"-o", "Dir::Etc::sourcelist=/dev/null",
		"-o", "Dir::Etc::sourceparts=" + filepath.Join(dir, "sources"),
		"-o", "Dir::Etc::preferences=/dev/null",
		"-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "Dir::State::lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::Retries=0", // who does not answer is asked another time
		"-o", "Acquire::http::Timeout=20",
	}, nil
}

// stale tells whether lists of the origin's own should be fetched anew.
func (o *origin) stale(cache string) bool {
	if o.sources == "" {
		return false
	}
	info, err := os.Stat(o.stamp(cache))
	return err != nil || time.Since(info.ModTime()) > listsFor
}

// stamp is a file that was written when the lists were fetched.
func (o *origin) stamp(cache string) string { return filepath.Join(o.lists(cache), "fetched") }

// mayFetch tells whether this process may fetch the origin's lists: this
// machine's own are root's.
func (o *origin) mayFetch() bool { return o.sources != "" || os.Geteuid() == 0 }

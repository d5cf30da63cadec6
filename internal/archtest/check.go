package archtest

import (
	"fmt"
	"strings"
)

// Rule is one ban: no package that From names imports one that To names.
//
// A pattern is a package, or with "/..." at its end a package and all below it.
// "./..." is the whole project, sameUnit what shares the importer's unit.
type Rule struct {
	Name string // for messages and tests

	From, FromExcept []string
	To, ToExcept     []string
	Tests            bool // test files too
	Reason           string
}

// sameUnit stands for the packages of the importer's own unit: a folder of
// plugins, frontends, sdk or engine with all below it.
const sameUnit = "(same unit)"

// Violation is an import that a rule bans.
type Violation struct {
	Edge Edge
	Rule *Rule
}

func (v Violation) String() string {
	return fmt.Sprintf("%s\n\tbanned by %q: %s", v.Edge, v.Rule.Name, v.Rule.Reason)
}

// Check gives the edges that rules ban, in the order of the edges.
func Check(edges []Edge, rules []Rule) []Violation {
	var found []Violation
	for _, e := range edges {
		for i := range rules {
			if rules[i].bans(e) {
				found = append(found, Violation{e, &rules[i]})
			}
		}
	}
	return found
}

func (r *Rule) bans(e Edge) bool {
	if e.Test && !r.Tests || e.From == e.To { // an external test imports its own package
		return false
	}
	return matchAny(r.From, e.From, e.From) && !matchAny(r.FromExcept, e.From, e.From) &&
		matchAny(r.To, e.To, e.From) && !matchAny(r.ToExcept, e.To, e.From)
}

func matchAny(patterns []string, path, importer string) bool {
	for _, p := range patterns {
		if match(p, path, importer) {
			return true
		}
	}
	return false
}

func match(pattern, path, importer string) bool {
	if pattern == sameUnit {
		return unit(path) == unit(importer)
	}
	base, below := strings.CutSuffix(pattern, "/...")
	return path == base || below && strings.HasPrefix(path, base+"/")
}

// unit is the second folder of a package of the project: "./plugins/nbd" of
// "./plugins/nbd/wasm".
func unit(path string) string {
	parts := strings.SplitN(path, "/", 4)
	return strings.Join(parts[:min(len(parts), 3)], "/")
}

package config

import (
	"fmt"
	"strings"
)

// nearest gives the known word that a mistyped one was most likely meant to be,
// or "" if none is near. The work grows with the square of the word's length,
// so long ones are not looked at.
func nearest(word string, known []string) string {
	if len(word) > maxName {
		return ""
	}
	best, bestDistance := "", 1+max(1, min(len(word)/2, 3))
	for _, k := range known {
		if d := distance(fold(word), fold(k), bestDistance); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// maxGuesses is for how many problems of a file a near word is looked for. Who
// has more has another kind of problem, and looking takes longer than reading.
const maxGuesses = 256

// guess is nearest while the file has few problems.
func (r *reader) guess(word string, known []string) string {
	if len(r.problems) >= maxGuesses {
		return ""
	}
	return nearest(word, known)
}

var separators = strings.NewReplacer("-", "", "_", "")

// fold makes equal what people mix up.
func fold(s string) string { return separators.Replace(strings.ToLower(s)) }

// distance counts the letters to insert, remove, change or swap with their
// neighbour to make b of a (optimal string alignment), or gives limit if that
// is certainly as many.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := prev[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(prev[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}

// quoted lists words in a sentence: "a", "b" or "c".
func quoted(words []string, conjunction string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i > 0 && i == len(words)-1:
			b.WriteString(" " + conjunction + " ")
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", w)
	}
	return b.String()
}

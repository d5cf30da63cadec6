package pluginhost

import "strings"

// maxGuessed is the longest word that a near one is looked for: the work grows
// with the square of its length.
const maxGuessed = 64

// nearest gives the name that a mistyped one was most likely meant to be: at
// most a third of its letters differ. "" if there is none.
func nearest(word string, names []string) string {
	if len(word) > maxGuessed {
		return ""
	}
	best, least := "", len(word)/3+2
	for _, n := range names {
		if len(n) > maxGuessed {
			continue
		}
		if d := edits(strings.ToLower(word), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	return best
}

// edits counts the letters to insert, remove or change to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

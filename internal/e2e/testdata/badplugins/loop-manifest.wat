;; Loops for ever when it is asked what it is.
(func $manifest (loop $l (br $l)))

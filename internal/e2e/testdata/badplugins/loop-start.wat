;; Loops for ever before anybody has called it.
(func $forever (loop $l (br $l)))
(start $forever)

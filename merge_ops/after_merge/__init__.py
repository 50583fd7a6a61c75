"""Steps after the merge: changes of a merged model as a whole, which no tensor determines alone."""

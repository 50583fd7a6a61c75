"""What is done to a merged model after the merge: a short training by its parents, or corrections in closed form."""
